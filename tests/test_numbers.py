"""How numbers are written."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from fuxian import numbers
from fuxian.numbers import scale


@pytest.mark.parametrize(
    ("function", "arguments", "text"),
    [
        ("fixed", (1234.56, 1), "1,234.6"),
        ("fixed", (-0.04, 1), "0.0"),
        ("fixed", (-1.4, 1), "−1.4"),
        ("signed", (0.13, 2), "+0.13"),
        ("signed", (-0.4, 1), "−0.4"),
        ("signed", (-0.04, 1), "0.0"),
        ("general", (16,), "16"),
        ("general", (60000,), "60,000"),
        ("general", (0.01,), "0.01"),
        ("general", (1.0,), "1"),
        ("general", (5e-4,), "5\u202f×\u202f10⁻⁴"),
        ("general", (-2.5e-7,), "−2.5\u202f×\u202f10⁻⁷"),
        ("general", (1e6,), "1,000,000"),
        ("general", (1e9,), "1\u202f×\u202f10⁹"),
        ("general", (0.0,), "0"),
        ("general", (nan,), "not a number"),
        ("general", (-inf,), "infinite"),
        ("small", (2.96e-7,), "3\u202f×\u202f10⁻⁷"),
        ("small", (0.0,), "0"),
        ("significant", (0.613,), "0.6130"),
        ("significant", (84.361,), "84.36"),
        ("significant", (12345.6,), "12,346"),
        ("significant", (2.34567e-5,), "2.346\u202f×\u202f10⁻⁵"),
        ("duration", (0.00012,), "120\u202fµs"),
        ("duration", (0.0054,), "5.4\u202fms"),
        ("duration", (0.0546,), "55\u202fms"),
        ("duration", (0.12,), "0.1\u202fs"),
        ("duration", (1.44,), "1.4\u202fs"),
        ("duration", (9.97,), "10\u202fs"),
        ("duration", (14.2,), "14\u202fs"),
        ("duration", (59.7,), "1\u202fmin 0\u202fs"),
        ("duration", (112,), "1\u202fmin 52\u202fs"),
        ("duration", (3599.8,), "1\u202fh 0\u202fmin"),
        ("duration", (6840,), "1\u202fh 54\u202fmin"),
        ("rate", (158.2,), "158/s"),
        ("rate", (2.44,), "2.4/s"),
        ("rate", (0.123,), "0.12/s"),
        ("size", (432000000,), "412\u202fMiB"),
        ("size", (1023.7 * 1024**2,), "1.0\u202fGiB"),
        ("size", (25290784768,), "24\u202fGiB"),
        ("size", (5e12,), "4.5\u202fTiB"),
        ("size", (100,), "0.1\u202fKiB"),
        ("ratio", (0.1,), "0.10\u202f×"),
        ("ratio", (3.14,), "3.1\u202f×"),
        ("ratio", (12.4,), "12\u202f×"),
        ("plural", (1, "seed"), "1 seed"),
        ("plural", (1000, "node"), "1,000 nodes"),
        ("is_share", ("test/top5_error",), True),
        ("is_share", ("fine-tune/test/accuracy",), True),
        ("is_share", ("test/loss",), False),
        ("is_share", ("test/mean_squared_error_rate",), False),
        ("better", ("test/accuracy",), "higher"),
        ("better", ("test/parzen",), "higher"),
        ("better", ("fine-tune/val/top5_error",), "lower"),
        ("better", ("generator/loss",), "lower"),
        ("better", ("forgetting",), "lower"),
        ("better", ("test/bits_per_byte",), "lower"),
        ("better", ("test/energy_score",), "lower"),
        ("better", ("test/mae_in_units",), "lower"),
        ("better", ("test/score",), "higher"),
    ],
)
def test_written(function: str, arguments: tuple[Any, ...], text: Any) -> None:
    assert getattr(numbers, function)(*arguments) == text


@pytest.mark.parametrize(
    ("metric", "values", "settings", "spread"),
    [
        ("test/accuracy", [0.81, 0.82, 0.822], {}, "81.7 ± 0.6"),  # std 0.64: its first figure
        ("test/accuracy", [0.7, 0.8, 0.9], {}, "80 ± 10"),
        ("test/accuracy", [0.8, 0.8013576], {}, "80.1 ± 0.1"),  # std 0.096 is 0.1 to one figure
        ("test/accuracy", [0.81, 0.82, 0.822], {"literals": (0.8153, 0.01)}, "81.73 ± 0.64"),
        ("test/accuracy", [0.9909], {"count": 10_000}, "99.09"),
        ("test/accuracy", [0.816], {"count": 1000}, "81.6"),
        ("test/accuracy", [0.97], {"count": 34}, "97.0"),
        ("test/fid", [3.174], {"literals": (3.17,)}, "3.174"),
        ("test/perplexity", [84.361], {}, "84.36"),
        ("test/loss", [0.6131, 0.6134], {}, "0.6132 ± 0.0002"),
        ("test/ari", [1.0, 1.0], {"literals": (0.73,)}, "1.000 ± 0"),
        ("val/inertia", [78851.44], {}, "78,851"),
    ],
)
def test_digits_follow_the_spread(metric: str, values: list[float], settings: dict[str, Any], spread: str) -> None:
    from fuxian.proof.claims import mean_std

    assert scale(metric, values, **settings).spread(*mean_std(values)) == spread


def test_units() -> None:
    percent, plain = scale("test/error", [0.01]), scale("test/fid", [3.1])
    assert percent.with_unit("1.0") == "1.0\u202f%"
    assert plain.with_unit("3.1") == "3.1"
    assert percent.gap(-0.0004) == "0.0"
    assert percent.gap(nan) == "–"
    assert percent.value(nan) == "not a number"
