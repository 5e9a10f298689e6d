"""What every training process needs around its steps, whether it leads or follows."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from medseg3d.training.averaging import Averaging
from medseg3d.training.correction import Correction
from medseg3d.training.interrupts import Interrupts
from medseg3d.training.keeper import Keeper
from medseg3d.training.module import SegmentationModule
from medseg3d.training.workers import Workers


class Upkeep(Callback):
    """Brings back a checkpoint, watches the data workers, leaves the averaged weights.

    Must stand behind :class:`medseg3d.training.callbacks.Pace` and before those that write.

    Args:
        keeper: Holds the checkpoint and the average of the weights.
        interrupts: Taken back from lightning when something stops the training.
        workers: Watched while there is training.
        num_workers: How many there must be.
        ema: Decay of the average of the weights.
        correction: Of the labels, if there is one.
    """

    def __init__(
        self,
        keeper: Keeper,
        interrupts: Interrupts,
        workers: Workers,
        *,
        num_workers: int,
        ema: float,
        correction: Correction | None = None,
    ) -> None:
        self._keeper = keeper
        self._interrupts = interrupts
        self._workers = workers
        self._num_workers = num_workers
        self._ema = ema
        self._correction = correction

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring back a checkpoint."""
        assert isinstance(pl_module, SegmentationModule)
        network = pl_module.network
        self._workers.watch(self._num_workers)
        averaging = Averaging(network, self._ema, self._interrupts)
        self._keeper.begin(trainer, network, averaging, self._correction)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """See that all workers are there."""
        self._workers.check()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the averaged weights in the network."""
        self._workers.end()
        assert self._keeper.averaging is not None
        self._keeper.averaging.swap()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Take back the signals and end the workers."""
        self._interrupts.install()  # lightning is deaf to Ctrl-C from here on
        self._workers.end(exception)
