"""Who waits for a compilation is told so; who does not wait sees nothing."""

import pytest

from coinfer_ray.cli import compile_notice
from coinfer_ray.cli.compile_notice import _Notice


class At:
    def __init__(self, functions, seconds, done=False, outermost=False):
        self.function, self.functions, self.seconds = "module.kernel", functions, seconds
        self.done, self.outermost = done, outermost


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(compile_notice.time, "monotonic", lambda: now[0])
    return now


def test_what_takes_no_second_is_not_worth_a_word(capsys, clock):
    notice = _Notice()
    notice(At(0, 0.0, outermost=True))
    notice(At(3, 0.9, done=True, outermost=True))
    assert capsys.readouterr() == ("", "")


def test_lines_come_now_and_then_where_nothing_can_be_written_over(capsys, clock):
    notice = _Notice()
    for second in range(12):
        clock[0] = float(second)
        notice(At(second, float(second), done=True))
    notice(At(12, 12.0, done=True, outermost=True))
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.splitlines() == [
        f"compiling kernels for this processor (once): {n} functions, {n} s" for n in (1, 6, 11)
    ]


def test_a_terminal_gets_one_line_that_ends_with_the_kernel(capsys, clock, monkeypatch):
    monkeypatch.setattr(compile_notice.sys.stderr, "isatty", lambda: True, raising=False)
    notice = _Notice()
    for second in (1, 2):
        clock[0] = float(second)
        notice(At(second, float(second), done=True))
    notice(At(3, 3.0, done=True, outermost=True))
    _, errors = capsys.readouterr()
    assert errors.count("\n") == 1
    assert errors.endswith("3 functions, 3 s\n")
