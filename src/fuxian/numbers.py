"""How numbers are written, in the terminal, in tables and on the page. Plain text, nothing to escape.

A narrow no-break space stands before a unit, the minus sign is U+2212, thousands have a comma.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import floor, isfinite, log10
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fuxian.facts import Claim

THIN = "\u202f"
MINUS = "\u2212"
NONE = "–"

_SHARES = {"accuracy", "error", "precision", "recall", "f1", "purity", "cer", "wer", "coverage", "picp", "top1", "top5"}
_LOWER = set(
    "loss error perplexity ppl inertia distortion nll nelbo bpc bpb bpd bits mse rmse mae mape smape mase crps wql qice "
    "cer wer fid kid lpips brier ece mmd divergence distance energy forgetting gap sweeps estimate regret residual "
    "seconds style content".split()
)
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def is_share(metric: str) -> bool:
    """Whether a metric is a fraction that is written in percent: `test/accuracy`, `val/top5_error`."""
    return _word(metric) in _SHARES


def better(metric: str, claims: Iterable[Claim] = ()) -> Literal["higher", "lower"]:
    """Which values of a metric are better: by a claim that names it, else by its last word: of `val/loss` the lower."""
    for claim in claims:
        if claim.metric == metric and claim.better != "equal":
            return claim.better
    return "lower" if _word(metric) in _LOWER else "higher"


def _word(metric: str) -> str:
    """What is measured: `error` of `val/top5_error`, `bits` of `test/bits_per_byte`, `energy` of `test/energy_score`."""
    return re.split(r"[/_ -]", re.sub(r"[_ -]per[_ -].*|_score$|_in_units$", "", metric))[-1].lower()


def fixed(value: float, digits: int) -> str:
    """`1,234.5` with so many digits after the point; never `−0.0`."""
    text = f"{value:,.{max(0, digits)}f}"
    return text.lstrip("-") if not text.strip("-0.,") else text.replace("-", MINUS)


def signed(value: float, digits: int) -> str:
    """`+0.13`, `−1.4`; zero has no sign."""
    text = fixed(value, digits)
    return text if text.startswith(MINUS) or not text.strip("0.,") else "+" + text


def general(value: float) -> str:
    """A number that says of itself how exact it is: `0.01`, `5 × 10⁻⁴`, `60,000`."""
    if not isfinite(value):
        return "not a number" if value != value else "infinite"
    if isinstance(value, int):
        return fixed(value, 0)
    mantissa, exponent = f"{Decimal(repr(value)).normalize():e}".split("e")
    if value and not -3 <= int(exponent) < 7:
        power = f"10{str(int(exponent)).translate(_SUPERSCRIPT)}"
        return f"{mantissa.replace('-', MINUS)}{THIN}×{THIN}{power}"
    return fixed(value, decimals(value))


def small(value: float) -> str:
    """A difference to one figure: `3 × 10⁻⁷`; 0 is `0`."""
    return general(float(f"{value:.0e}")) if value else "0"


def significant(value: float, figures: int = 4) -> str:
    """`0.08123` as `0.08123`, `412.7`; four figures, and no digit of a whole number is lost."""
    if not isfinite(value) or not value or abs(value) < 1e-3:
        return general(float(f"{value:.{figures - 1}e}"))
    return fixed(value, figures - 1 - floor(log10(abs(value))))


def decimals(value: float) -> int:
    """How many digits after the point a literal has: 2 for 0.81, 0 for 3.0."""
    exponent = Decimal(repr(float(value))).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def place(std: float) -> int:
    """Digits after the point that a spread is worth: to its first figure."""
    return max(0, -floor(log10(float(f"{std:.0e}")))) if isfinite(std) and std > 0 else 0


@dataclass(frozen=True)
class Scale:
    """How one metric is written: factor and unit, and the same number of digits wherever it stands."""

    factor: float
    unit: str
    digits: int

    def value(self, value: float | None) -> str:
        """`81.6`; a dash for None, which nobody measured or published."""
        if value is None:
            return NONE
        return fixed(value * self.factor, self.digits) if isfinite(value) else "not a number"

    def gap(self, value: float) -> str:
        return signed(value * self.factor, self.digits) if isfinite(value) else NONE

    def spread(self, mean: float, std: float) -> str:
        """`81.6 ± 0.6`, or the mean alone where there is no spread."""
        return self.value(mean) + (f" ± {self.value(std) if std else 0}" if isfinite(std) else "")

    def with_unit(self, text: str) -> str:
        return text + (THIN + self.unit if self.unit else "")


def scale(
    metric: str, values: Sequence[float] = (), *, count: float | None = None, literals: Sequence[float] = ()
) -> Scale:
    """How to write a metric: digits follow the spread of `values`, else what a share of `count` examples can tell.

    `literals` are published numbers that keep all of their digits.
    """
    share = is_share(metric)
    factor, unit = (100.0, "%") if share else (1.0, "")
    own = max((decimals(literal) for literal in literals), default=0) - 2 * share
    finite = [value for value in values if isfinite(value)]
    std = stdev(finite) * factor if len(finite) > 1 else 0.0
    if std > 0:
        digits = place(std)
    elif share:
        digits = min(2, max(1, round(log10(count)) - 2)) if count else 1
    else:
        mean = abs(fmean(finite)) if finite else 0.0
        digits = max(0, 3 - floor(log10(mean))) if mean else 2
        digits = min(digits, own + 1) if literals else digits
    return Scale(factor, unit, max(0, min(6, max(digits, own))))


def duration(seconds: float) -> str:
    """`120 µs`, `5.4 ms`, `1.4 s`, `14 s`, `1 min 52 s`, `1 h 54 min`."""
    if seconds < 0.0995:
        value, unit = (seconds * 1e6, "µs") if seconds < 0.9995e-3 else (seconds * 1e3, "ms")
        return fixed(value, 1 if value < 9.95 else 0) + THIN + unit
    if seconds < 9.95:
        return fixed(seconds, 1) + THIN + "s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{THIN}s"
    if whole < 3600:
        return f"{whole // 60}{THIN}min {whole % 60}{THIN}s"
    minutes = round(seconds / 60)
    return f"{fixed(minutes // 60, 0)}{THIN}h {minutes % 60}{THIN}min"


def rate(per_second: float, what: str = "s") -> str:
    """`158/s`, `2.4/s`, `0.12/s`."""
    digits = 0 if per_second >= 9.95 else 1 if per_second >= 0.995 else 2
    return f"{fixed(per_second, digits)}/{what}"


def size(count: float) -> str:
    """Bytes as `412 MiB`, `1.4 GiB`."""
    power = 1
    while power < 4 and count >= 999.5 * 1024**power:
        power += 1
    value = count / 1024**power
    return fixed(value, 1 if value < 9.95 else 0) + THIN + ("KiB", "MiB", "GiB", "TiB")[power - 1]


def ratio(value: float) -> str:
    """`0.10 ×`, `1.4 ×`, `12 ×`; below one is faster."""
    return fixed(value, 2 if value < 1.995 else 1 if value < 9.95 else 0) + THIN + "×"


def plural(count: int, word: str, several: str = "") -> str:
    """`1 seed`, `20 seeds`, `1,000 test nodes`, `2 processes`."""
    return f"{count:,} {word if count == 1 else several or word + 's'}"
