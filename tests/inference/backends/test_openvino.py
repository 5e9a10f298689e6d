"""What OpenVINO does to the process beside its work is undone."""

import logging
import threading

from medseg3d.inference.backends.openvino import root_logger_kept


def test_conversions_in_several_threads_leave_the_root_logger_as_it_was() -> None:
    """The second would keep what the first one made of it, if it began meanwhile."""
    root = logging.getLogger()
    first_begun, second_begun, first_ended = (threading.Event() for _ in range(3))

    def first() -> None:
        with root_logger_kept():
            root.setLevel(logging.ERROR)
            first_begun.set()
            second_begun.wait(0.2)
        first_ended.set()

    def second() -> None:
        first_begun.wait(10)
        with root_logger_kept():
            second_begun.set()
            first_ended.wait(10)

    both = [threading.Thread(target=target) for target in (first, second)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(30)
    assert root.level == logging.WARNING
