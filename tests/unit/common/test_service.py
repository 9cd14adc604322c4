import gc
import weakref

from services.common.service import _spare_the_collector


class Cycle:
    def __init__(self) -> None:
        self.own = self


def test_what_is_there_at_the_start_is_set_aside_and_cycles_are_still_found() -> None:
    thresholds = gc.get_threshold()
    try:
        _spare_the_collector()
        assert gc.get_freeze_count() > 10_000
        cycle = Cycle()
        gone = weakref.ref(cycle)
        del cycle
        kept = [[number] for number in range(60_000)]
        assert gone() is None
        assert len(kept) == 60_000
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
