"""``predict --samples``: what is written, that it repeats itself, and who cannot."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch

import medseg3d
from medseg3d.api.predicting import sampling, worker
from medseg3d.bundle import Bundle, load_network, read_bundle, save_bundle
from medseg3d.errors import ConfigError, RunError
from medseg3d.inference.planes import ONE
from medseg3d.inference.sampling import entropy_of
from medseg3d.networks import build_network

SHAPE = (22, 14, 18)
TURNED = np.array([[0, -1.2, 0, 9], [0, 0, 1.5, -3], [1.0, 0, 0, 0], [0, 0, 0, 1.0]])
EAGER = {"backend": "eager", "precision": "fp32"}
NETWORKS: dict[str, dict[str, Any]] = {
    "probabilistic_unet": {"width": 3, "strides": (2,), "latent": 4},
    "hierarchical_probabilistic_unet": {"width": 4, "strides": (2, 2)},
    "slices:probabilistic_unet": {"width": 3, "strides": (2,), "latent": 4},
}


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained networks of three labels, whose random numbers matter."""
    plan = read_bundle(tiny_model).plan
    found = {}
    for name, options in NETWORKS.items():
        torch.manual_seed(2)
        network = build_network(name, 1, 3, options=options)
        with torch.no_grad():
            for head_name, head in network.named_modules():
                if "prior" in head_name and head_name.endswith(("head.conv", "heads.0.conv")):
                    half = len(head.bias) // 2
                    head.bias[half:] += 2.0  # wide distributions
        found[name] = tmp_path_factory.mktemp("models") / f"{name}.medseg3d"
        bundle = Bundle(network=name, options=options, plan=plan, channels=1)
        save_bundle(found[name], bundle, network)
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    array = np.random.default_rng(0).normal(100, 30, SHAPE).astype(np.int16)
    nib.save(nib.Nifti1Image(array, TURNED), tmp_path / "case.nii")
    return tmp_path / "case.nii"


def voxels(path: Path) -> npt.NDArray[Any]:
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("name", list(NETWORKS)[:2])
def test_samples_and_their_entropy_are_written_beside_the_labels(
    name: str, image: Path, models: dict[str, Path]
) -> None:
    folder, options = image.parent, {"model": models[name]} | EAGER
    [plain] = medseg3d.predict(image, out=folder / "plain.nii", **options)
    assert plain.samples == ()
    assert plain.entropy is None
    [found] = medseg3d.predict(image, out=folder / "o.nii", samples=3, **options)
    np.testing.assert_array_equal(voxels(found.path), voxels(plain.path))
    assert [path.name for path in found.samples] == [f"o_sample_0{n}.nii.gz" for n in (1, 2, 3)]
    samples = [voxels(path) for path in found.samples]
    assert found.entropy == folder / "o_samples_entropy.nii.gz"
    for path in (*found.samples, found.entropy):
        np.testing.assert_allclose(nib.load(path).affine, TURNED)
        assert nib.load(path).shape == SHAPE
    assert all(set(np.unique(sample)) <= {0, 3, 7} for sample in samples)
    assert not np.array_equal(samples[0], samples[1])
    assert nib.load(found.entropy).get_data_dtype() == np.uint16
    expected = entropy_of(samples, 3) / ONE
    np.testing.assert_allclose(nib.load(found.entropy).get_fdata(), expected, atol=1e-6)
    assert 0 < expected.mean() < 1


def test_a_model_that_is_replaced_meanwhile_is_not_sampled(
    image: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, real = image.parent / "model.medseg3d", worker.Samples
    bundle, network = read_bundle(found := models["probabilistic_unet"]), load_network(found)
    save_bundle(model, bundle, network)

    def late(*given: Any, **options: Any) -> sampling.Samples:
        save_bundle(model, bundle.model_copy(update={"scores": {"mean": 0.5}}), network)
        return real(*given, **options)

    monkeypatch.setattr(worker, "Samples", late)
    with pytest.raises(RunError, match="is another model than when the command began"):
        medseg3d.predict(image, out=image.parent / "o.nii", model=model, samples=1, **EAGER)
    assert not (image.parent / "o.nii").exists()


def test_networks_of_slices_are_sampled_too(image: Path, models: dict[str, Path]) -> None:
    model, out = models["slices:probabilistic_unet"], image.parent / "slices.nii"
    [found] = medseg3d.predict(image, model=model, out=out, samples=2, **EAGER)
    samples = [voxels(path) for path in found.samples]
    assert len(samples) == 2
    assert all(set(np.unique(sample)) <= {0, 3, 7} for sample in samples)
    assert found.entropy is not None
    expected = entropy_of(samples, 3) / ONE
    np.testing.assert_allclose(nib.load(found.entropy).get_fdata(), expected, atol=1e-6)


def test_samples_repeat_themselves_and_change_with_the_seed(
    image: Path, models: dict[str, Path]
) -> None:
    def drawn(name: str, **options: Any) -> list[npt.NDArray[Any]]:
        out = image.parent / f"{name}.nii"
        model = models["probabilistic_unet"]
        [found] = medseg3d.predict(image, model=model, out=out, **EAGER, **options)
        return [voxels(path) for path in found.samples]

    first, again = drawn("a", samples=2), drawn("b", samples=3)
    for ours, theirs in zip(first, again[:2], strict=True):  # whatever comes after them
        np.testing.assert_array_equal(ours, theirs)
    other = drawn("c", samples=2, seed=1)
    assert not all(np.array_equal(*pair) for pair in zip(first, other, strict=True))


def test_samples_end_with_the_region_and_are_cleaned_as_the_labels(
    image: Path, models: dict[str, Path]
) -> None:
    options: dict[str, Any] = {"model": models["probabilistic_unet"], "samples": 4}
    options |= EAGER | {"roi": "4:20,:12,10:"}
    cleaning = {name: {"min_volume_mm3": 1e9} for name in ("core", "shell")}
    [found] = medseg3d.predict(image, out=image.parent / "r.nii", **options)
    outside = np.ones(SHAPE, bool)
    outside[4:20, :12, 10:] = False
    for path in (*found.samples, found.entropy):
        assert voxels(path).any()
        assert not voxels(path)[outside].any()
    [bare] = medseg3d.predict(image, out=image.parent / "b.nii", cleaning=cleaning, **options)
    assert not any(voxels(path).any() for path in (bare.path, *bare.samples, bare.entropy))


def test_a_finished_case_is_not_drawn_again_and_time_is_told(
    image: Path, models: dict[str, Path]
) -> None:
    (image.parent / "in").mkdir()
    image.rename(image.parent / "in" / "case.nii")
    inputs, out = image.parent / "in", image.parent / "out"
    options: dict[str, Any] = {"model": models["probabilistic_unet"], "out": out} | EAGER
    assert len(medseg3d.predict(inputs, samples=2, **options)) == 1
    [record] = json.loads((out / "predictions.json").read_text())["cases"].values()
    assert len(record["outputs"]) == 4
    assert 0 < record["seconds"]["samples"] < record["seconds"]["compute"]
    assert medseg3d.predict(inputs, samples=2, **options) == []
    (out / "case_sample_02.nii.gz").unlink()
    assert len(medseg3d.predict(inputs, samples=2, skip_existing=True, **options)) == 1
    assert (out / "case_sample_02.nii.gz").is_file()
    with pytest.raises(RunError, match=r"exist already .*case\.nii\.gz"):
        medseg3d.predict(inputs, samples=2, seed=5, **options)


def test_no_label_map_appears_when_a_sample_cannot_be_written(
    image: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[..., None] = sampling.write_labels

    def full(path: Path, *arguments: Any, **options: Any) -> None:
        if "sample_02" in path.name:
            raise RunError(f"{path} cannot be written: the disk is full")
        write(path, *arguments, **options)

    monkeypatch.setattr(sampling, "write_labels", full)
    out, model = image.parent / "out", models["probabilistic_unet"]
    with pytest.raises(RunError, match="the disk is full"):
        medseg3d.predict(image, model=model, out=out / "o.nii", samples=3, **EAGER)
    assert [path.name for path in out.iterdir()] == ["o_sample_01.nii.gz"]


def test_a_network_with_one_answer_is_refused_before_anything_is_written(
    image: Path, tiny_model: Path, models: dict[str, Path]
) -> None:
    out = image.parent / "out"
    expected = (
        r"tiny\.medseg3d is a unet3d, which knows one answer per image and cannot be sampled; "
        "leave out --samples, or train one of hierarchical_probabilistic_unet, probabilistic_unet"
    )
    with pytest.raises(ConfigError, match=expected):
        medseg3d.predict(image, model=tiny_model, out=out, samples=2)
    both = list(models.values())[:2]
    with pytest.raises(ConfigError, match="drawn from one model, but 2 are given"):
        medseg3d.predict(image, model=both, out=out, samples=2)
    with pytest.raises(ConfigError, match="samples: input should be greater than or equal to 0"):
        medseg3d.predict(image, model=both[0], out=out, samples=-1)
    with pytest.raises(ConfigError, match=r"^samples: for files only"):
        medseg3d.predict(np.zeros((8, 8, 8)), affine=np.eye(4), model=both[0], samples=2)
    assert not out.exists()
