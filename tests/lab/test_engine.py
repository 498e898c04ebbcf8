"""A playground on a serving engine, by clicks: the text comes first, the colours at the end."""

import pytest

from tests.house.sources import ROOT
from tests.lab.lab import Lab
from tests.lab.test_playground import wait_for_idle, write
from tests.lab.views import MODEL, button, check_text, check_totals, opened, wait_for_state

pytestmark = pytest.mark.browser

ENGINE = f"""{MODEL}
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.engines.served import VLLM
from tests.engines.stand_in import StandIn
server = StandIn(VLLM(model, wait=0.1)).__enter__()
engine = v4kit.connect(server.url, model=model)
engine.stop_ids = set()
"""


def test_run_stop_and_go_on(lab: Lab) -> None:
    opened(lab, "playground = Playground(engine, max_new_tokens=40)\nplayground", first=ENGINE)
    lab.cell(1).get_by_text("tells the ids of experts only").wait_for()
    write(lab, 1, "Once upon a time")
    lab.cell(1).locator(".v4-tokens span").nth(12).wait_for()
    assert not lab.value("bool(playground.trace.tokens['valid'].any())")
    button(lab, 1, "■ Stop").click()
    wait_for_idle(lab, 1)
    assert lab.value("bool(playground.trace.tokens['valid'].all())")
    check_text(lab, 1, "playground.trace")
    check_totals(lab, 1, "playground.trace")
    lab.cell(1).get_by_text("without colours, for experts have no order").wait_for()
    first = lab.value("len(playground.trace)")
    assert first < 40
    button(lab, 1, "Continue").click()
    wait_for_state(lab, 1, "Done: the length is reached.")
    assert lab.value("len(playground.trace)") > first
    check_text(lab, 1, "playground.trace")
    check_totals(lab, 1, "playground.trace")
    lab.check_quiet()
