"use strict";
/* The volumes of one case, as its script brings them: NIfTI files gzipped and as base64. */
const Volumes = (() => {
  const { NVImage } = window.niivue ?? {};
  const LABEL_INTENT = 1002; // NIfTI's code for label maps
  const UINT16 = 512; // NIfTI's code of the type of all maps, whose labels may be many

  async function decode(base64, name, num) {
    const volume = await NVImage.loadFromBase64({ base64, name: `${name}.nii.gz`, colormap: "gray" });
    const dims = volume.dimsRAS.slice(1, 4);
    const turned = String(volume.permRAS) !== "1,2,3";
    if (turned || (num && dims.join() !== num)) throw new Error(`The ${name} of this case lies on another grid; write the review again.`);
    return volume;
  }

  /* Labels counted in the order of the list, so that any label values do. */
  function compact(values, labels) {
    const highest = labels.reduce((most, { value }) => Math.max(most, value), 0);
    const places = new Uint16Array(highest + 1).fill(labels.length + 1);
    places[0] = 0;
    labels.forEach(({ value }, place) => (places[value] = place + 1));
    const found = new Uint16Array(values.length);
    for (let i = 0; i < values.length; i += 1) {
      const value = values[i];
      if (value !== 0) found[i] = value <= highest ? places[value] : labels.length + 1;
    }
    return found;
  }

  /* Everything of a case: {image, fill, maps, dims, labels, data}. The image and the volume that
     is filled with one of the maps are NiiVue's; the maps hold places in the list of labels
     counted from 1, but for that of the errors. */
  async function load(data, labels) {
    const image = await decode(data.image, "image");
    const dims = image.dimsRAS.slice(1, 4);
    const fill = await decode(data.prediction, "prediction", dims.join());
    const maps = { prediction: compact(fill.img, labels) };
    if (data.reference) maps.reference = compact((await decode(data.reference, "reference", dims.join())).img, labels);
    if (data.errors) maps.errors = Uint16Array.from((await decode(data.errors, "errors", dims.join())).img);
    const header = { intent_code: LABEL_INTENT, datatypeCode: UINT16, numBitsPerVoxel: 16, scl_slope: 1, scl_inter: 0 };
    Object.assign(fill.hdr, header);
    [image.cal_min, image.cal_max] = data.window;
    return { data, image, fill, maps, dims, labels };
  }

  /* The map of one label. */
  function alone(map, label) {
    const found = new Uint16Array(map.length);
    for (let i = 0; i < found.length; i += 1) if (map[i] === label) found[i] = label;
    return found;
  }

  /* Errors of one label alone: labels that differ are then false positive or negative. */
  function errorsOf({ prediction, reference }, label) {
    const found = new Uint16Array(prediction.length);
    for (let i = 0; i < found.length; i += 1) {
      if (prediction[i] === label) found[i] = reference[i] === label ? 1 : 2;
      else if (reference[i] === label) found[i] = 3;
    }
    return found;
  }

  /* Colors of a map, counted from 1, as NiiVue takes them. */
  function table(colors) {
    const all = [[0, 0, 0], ...colors];
    const [R, G, B] = [0, 1, 2].map((channel) => all.map((color) => color[channel]));
    return { R, G, B, A: all.map((_, place) => (place > 0 ? 255 : 0)), I: [...all.keys()] };
  }

  return { load, alone, errorsOf, table };
})();
