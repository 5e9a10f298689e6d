"""Fixtures that every part's tests share."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def fresh_logger() -> Iterator[None]:
    """The logger as a new process has it, whatever commands in tests before made of it."""
    logger = logging.getLogger("medseg3d")

    def refresh() -> None:
        logging.disable(logging.NOTSET)
        logger.disabled, logger.propagate = False, True
        logger.setLevel(logging.NOTSET)
        logging.getLogger().setLevel(logging.WARNING)  # a conversion may leave it at ERROR

    refresh()
    handlers = set(logger.handlers)
    yield
    refresh()
    for handler in set(logger.handlers) - handlers:
        logger.removeHandler(handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real cases, beside the repository; tests that need it skip without it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real cases not found at ../shared/data")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained bundle of three labels for one channel; it predicts nonsense, repeatably."""
    import torch

    from medseg3d.bundle import Bundle, save_bundle
    from medseg3d.data.plan import Normalization, Plan
    from medseg3d.networks import build_network

    plan = Plan(
        num_cases=2,
        labels={0: "background", 3: "core", 7: "shell"},
        channels=(Normalization(name="CT", scheme="zscore", lower=0, upper=300, mean=100, sd=50),),
        spacing=(1.0, 1.2, 1.5),
        coarse_axis=None,
        median_shape=(14, 12, 10),
        patch_size=(16, 16, 16),
        batch_size=1,
        strides=((2, 2, 2),),
        kernels=((3, 3, 3), (3, 3, 3)),
        width=4,
        max_width=8,
    )
    options = {"width": 4, "max_width": 8, "strides": ((2, 2, 2),), "kernels": plan.kernels}
    torch.manual_seed(0)
    network = build_network("unet3d", 1, 3, options=options)
    path = tmp_path_factory.mktemp("model") / "tiny.medseg3d"
    bundle = Bundle(network="unet3d", options=options, plan=plan, channels=1)
    save_bundle(path, bundle, network)
    return path


@pytest.fixture
def dicom_series() -> Callable[..., list[Path]]:
    """Writer of small DICOM series: one file per slice, any tag changed for all or for one."""
    return write_dicom_series


def write_dicom_series(
    folder: Path,
    *,
    stored: npt.NDArray[Any] | None = None,
    step: tuple[float, float, float] = (0.0, 0.0, 2.5),
    per_slice: Callable[[int], dict[str, Any]] = lambda _: {},
    name: Callable[[int], str] = "{:02d}.dcm".format,
    **tags: Any,
) -> list[Path]:
    """Write ``stored`` (slices, rows, columns) as CT, axial unless the tags say otherwise."""
    import numpy as np
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    stored = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) if stored is None else stored
    folder.mkdir(parents=True, exist_ok=True)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    written = []
    for place, plane in enumerate(stored):
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.FrameOfReferenceUID, image.Modality, image.SeriesNumber = frame, "CT", 3
        image.PatientID, image.PatientName = "", ""
        image.InstanceNumber, image.ImageType = place + 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.Rows, image.Columns, image.SamplesPerPixel = *plane.shape, 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 8 * plane.dtype.itemsize
        image.HighBit, image.PixelRepresentation = (
            image.BitsStored - 1,
            int(plane.dtype.kind == "i"),
        )
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.ImagePositionPatient = [10 + place * step[0], 20 + place * step[1], place * step[2]]
        image.PixelSpacing, image.SliceThickness = [0.8, 0.6], 5
        image.RescaleSlope, image.RescaleIntercept = 1, 0
        image.PixelData = plane.tobytes()
        for keyword, value in (tags | per_slice(place)).items():
            if value is None:
                delattr(image, keyword)
            else:
                setattr(image, keyword, value)
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / name(place)
        image.save_as(path, enforce_file_format=True)
        written.append(path)
    return written
