"""The page: what it says first, that it is whole, and that it lets nothing in or out."""

from __future__ import annotations

import base64
import json
import random
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fuxian import catalog, figures, saving
from fuxian.errors import RunUnusable, WrongInput
from fuxian.proof.record import record, record_claim
from fuxian.report import write_index, write_report
from fuxian.report.pictures import inline_image, inline_svg

VOID = {"meta", "link", "br", "img", "col", "path", "circle", "rect", "use"}
NEAR = [0.812, 0.816, 0.820, 0.809, 0.823] * 4


class Page(HTMLParser):
    """Reads a page, checks that its tags are balanced, and keeps what the tests ask for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: dict[str, list[str]] = {}
        self.classes: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)
            self.classes.append(dict(attrs).get("class") or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        self.classes.pop()

    def handle_data(self, data: str) -> None:
        for kind in {*self.classes[-2:], *self.open[-1:]}:
            self.words.setdefault(kind, []).append(data)

    def said(self, kind: str) -> str:
        return " ".join("".join(self.words.get(kind, [])).split())  # a narrow space counts as a space


def title(page: Page) -> tuple[str, str]:
    """The mark and the words of the opening."""
    opening = page.source.split('<p class="verdict">')[1].split("</p>")[0]
    mark = re.search(r'href="#m-(\w+)"', opening)
    assert mark
    return mark[1], re.sub(r"<[^>]*>", "", opening)


def check(path: Path) -> Page:
    """What every page must be."""
    page = Page(path)
    assert len(page.ids) == len(set(page.ids))
    for tag, name, value in page.attributes:
        if name in ("src", "href"):
            assert value.startswith(("#", "data:")) or (tag == "a" and ":" not in value), value
            assert not value.startswith("#") or value[1:] in page.ids
        if name == "clip-path":
            assert value[5:-1] in page.ids
        assert not name.startswith("on")
    assert not re.search(r"https?:|url\((?!#)|@import", page.source)
    images = [dict(part) for part in _elements(page, "svg")]
    assert all(one.get("aria-label") or one.get("aria-hidden") for one in images)
    assert all(one.get("alt") for one in (dict(part) for part in _elements(page, "img")))
    assert len(page.source.encode()) < 150_000
    return page


def _elements(page: Page, tag: str) -> list[list[tuple[str, str]]]:
    parser = HTMLParser()
    found: list[list[tuple[str, str]]] = []
    parser.handle_starttag = lambda t, attrs: found.append([(a, b or "") for a, b in attrs]) if t == tag else None  # type: ignore[method-assign]
    parser.feed(page.source)
    return found


# ── openings ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("accuracies", "mark", "words", "big"),
    [
        (NEAR, "ok", "Reproduced", "81.6 ± 0.5 %"),
        ([0.84] * 10 + [0.841] * 10, "ok", "Above by 2.55", "84.05 ± 0.05 %"),
        ([value - 0.0139 for value in NEAR], "short", "Short by 1.3", "80.2 ± 0.5 %"),
        ([0.816], "part", "One seed: a run, not a verdict", "81.6 %"),
        (NEAR[:3], "part", "3 of 20 seeds: not yet a verdict", "81.6 ± 0.4 %"),
        ([float("nan")] * 20, "short", "Short", "not a number"),
    ],
)
def test_the_four_openings(runs: Any, accuracies: list[float], mark: str, words: str, big: str) -> None:
    page = check(write_report(runs.seeds(accuracies)))
    assert title(page) == (mark, words)
    assert page.said("big") == big or page.said("big soft") == big


def test_a_number_that_is_not_published_is_measured(runs: Any, methods: Path) -> None:
    file = methods / "graph" / "gcn.py"
    begin, _, rest = file.read_text(encoding="utf-8").partition("CLAIMS = [\n")
    claim = 'Claim("test/accuracy", None, where="no number is published", seeds=3),\n'
    file.write_text(f"{begin}CLAIMS = [\n{claim}]\n{rest.partition(']')[2]}", encoding="utf-8")
    folder = runs.seeds(NEAR[:3])
    page = check(write_report(folder))
    assert title(page) == ("scale", "Measured")
    assert page.said("big") == "81.6 ± 0.4 %"
    opening, table = page.source.split("<caption>")[:2]
    assert "No number is published." in opening
    assert "The paper says" not in opening
    assert "tolerance" not in opening
    row = next(row for row in table.split("<tr>") if ">accuracy<" in row)
    assert 'data-l="paper">–<' in row
    assert json.loads((folder / "verdict.json").read_text())["claims"][0] | {"std": 0} == {
        "metric": "test/accuracy", "value": None, "where": "no number is published", "seeds": 3, "tolerance": 0.0,
        "better": "higher", "knobs": {}, "comparison": "", "needs": "", "word": "measured", "values": NEAR[:3],
        "mean": pytest.approx(0.816), "std": 0, "gap": None,
    }  # fmt: skip


def test_at_scale_only_is_in_the_table(runs: Any) -> None:
    page = check(write_report(runs.one()))
    row = next(row for row in page.source.split("<tr>") if "NELL" in row)
    assert "#m-scale" in row
    assert "at scale only" in row
    assert "65,755 nodes" in row


@pytest.mark.parametrize(
    ("changes", "words", "note"),
    [
        (dict(quick=True, knobs={"data": ("karate", "quick")}), "The quick form: a run, not a verdict", "Table 2, Cora"),
        (dict(limit=5), "A trial, not a verdict", "limited to 5 steps a stage"),
        (dict(precision="bf16"), "A run, not a verdict", "bf16; claims are judged in float32"),
        (dict(knobs={"hidden": (32, "command line")}), "A run, not a verdict", "No number is published for these knobs"),
    ],
)
def test_a_run_that_no_claim_speaks_of(runs: Any, changes: dict[str, Any], words: str, note: str) -> None:
    page = check(write_report(runs.one(**changes)))
    assert title(page) == ("none", words)
    assert note in page.source
    assert page.said("big") == "81.6 %"


def stop(reason: str, message: str = "", player: str | None = None) -> dict[str, Any]:
    return dict(reason=reason, message=message, player=player, stage="train", step=85)


@pytest.mark.parametrize(
    ("status", "stopped", "mark", "words", "big", "note"),
    [
        ("stopped", stop("Ctrl-C"), "stop", "Stopped by Ctrl-C", "42 %", "fuxian resume"),
        ("stopped", stop("SIGTERM"), "stop", "Stopped by SIGTERM", "42 %", "step 85 of 200"),
        ("failed", stop("not finite", "the loss is NaN"), "short", "A loss that is not finite", "failed", "NaN."),
        ("failed", stop("not finite", player="d"), "short", "A loss of the player d that is not finite", "failed", ""),
        ("failed", stop("no space", "disk full"), "short", "Stopped: no space", "failed", "Disk full."),
        ("running", None, "run", "Running", "42 %", "when this page was written"),
    ],
)
def test_unfinished(
    runs: Any, status: str, stopped: dict[str, Any] | None, mark: str, words: str, big: str, note: str
) -> None:
    page = check(write_report(runs.one(status=status, stopped=stopped, stage=dict(step=85))))
    assert title(page) == (mark, words)
    assert page.said("big soft") == big
    assert note in page.source
    assert "loss" in page.said("t")  # the curves so far


def test_stopped_before_anything(runs: Any) -> None:
    stopped = dict(reason="Ctrl-C", message="", stage=None, step=0, player=None)
    folder = runs.one(status="stopped", stopped=stopped, stages=[])
    (folder / "metrics.jsonl").unlink()
    assert title(check(write_report(folder)))[0] == "stop"


def test_a_line_that_is_being_written_is_left_out(runs: Any) -> None:
    folder = runs.one(status="running")
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"stage": "train", "st')
    check(write_report(folder))


# ── contents ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_is_in_order_and_says_what_the_file_says(runs: Any) -> None:
    page = check(write_report(runs.seeds(NEAR)))
    order = ["Result", "Proof", "Curves", "Pictures", "Knobs", "Stages", "Environment", "Again", "Cite"]
    assert page.words["h2"] == order
    assert page.said("h1") == "Graph convolutional network"
    said = ["图卷积网络", "ICLR 2017, arXiv:1609.02907", "leaves out the L2 term", "Each layer averages", "units; sec. 5.2"]
    said += ["fuxian run gcn --seeds 20", "@misc{kipf2017semi", "Kipf and Welling", "412\u202fMiB", "20 seeds, 0 to 19"]
    assert [words for words in said if words not in page.source] == []


def test_a_disc_for_each_seed(runs: Any) -> None:
    page = check(write_report(runs.seeds(NEAR)))
    assert page.source.count('<circle class="f0"') == 20
    assert "20 seeds" in page.source


def test_claims_of_other_settings_come_from_the_record(runs: Any, methods: Path) -> None:
    entry = catalog.find("gcn")
    record_claim(entry.path, entry.claims[1], {"values": [0.66] * 20, "seeds": list(range(20))})
    record(entry.path, "resume", {"kills": 3, "tensors": 34, "equal": True})
    page = check(write_report(runs.one()))
    row = next(row for row in page.source.split("<tr>") if "Citeseer" in row)
    assert "short by 4.3" in row
    assert "record" in row
    assert "killed 3 times" in page.source


def test_what_this_run_found_stands_in_the_table(runs: Any) -> None:
    page = check(write_report(runs.seeds(NEAR)))
    row = next(row for row in page.source.split("<tr>") if row.startswith('<th scope="row">Cora'))
    assert "reproduced" in row
    assert "this page" in row
    assert "<b>81.6</b> ± 0.5" in row


def test_two_figures_share_no_id(runs: Any) -> None:
    folder = runs.one()
    for name in ("train-one", "train-two"):
        saving.save(figures.lines({"a": ([0, 1], [1.0, 2.0])}), folder / "pictures" / name)
    assert any(one.startswith("p1-") for one in check(write_report(folder)).ids)


def test_an_animation_has_all_of_its_frames_and_shows_the_last(runs: Any) -> None:
    folder = runs.one()
    drawn = [figures.lines({"a": ([0, 1], [up, 1.0])}) for up in (3.0, 2.0, 1.5)]
    shades = [torch.full((1, 4, 4), shade) for shade in (0.0, 0.4, 1.0)]
    saving.save(figures.animation(drawn, seconds=2), folder / "pictures" / "train-path")
    saving.save(figures.animation(shades, seconds=3), folder / "pictures" / "train-shade")
    page = check(write_report(folder))
    films = re.findall(r'<div class="film" data-seconds="(\d)">(.*?)</div>', page.source, re.DOTALL)
    assert [(seconds, film.count('class="frame"') + film.count('class="px frame ink"')) for seconds, film in films] == [
        ("2", 3), ("3", 3),
    ]  # fmt: skip
    assert "animation-" not in page.source  # it does not play by itself here
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', films[1][1])
    assert [_grey(source) for source in sources] == [0, 102, 255]
    assert page.source.count(".film .frame:not(:last-child){display:none") == 2  # without the script, and on paper


def _grey(source: str) -> int:
    with Image.open(BytesIO(base64.b64decode(source))) as image:
        return int(image.convert("L").getpixel((0, 0)))  # type: ignore[arg-type]


def test_players_and_stages(runs: Any) -> None:
    first = json.loads((runs.one("x") / "run.json").read_text())["stages"][0]
    stages = [
        first | {"name": "pretrain", "test": None},
        first | {"name": "fine-tune", "players": {"generator": 5, "critic": 7}},
    ]
    folder = runs.one(stages=stages)
    runs.draw(folder, "fine-tune")
    page = check(write_report(folder))
    assert page.words["h3"] == ["pretrain", "fine-tune"]
    assert "generator 5, critic 7" in page.source
    assert "Stage fine-tune." in page.source
    assert page.source.count("fine-tune test accuracy") == 0  # the last stage's number stands once


def test_the_verdict_is_also_for_machines(runs: Any) -> None:
    folder = runs.seeds([value - 0.03 for value in NEAR])
    write_report(folder)
    (claim,) = json.loads((folder / "verdict.json").read_text())["claims"]
    assert claim["word"] == "short"
    assert claim["gap"] == pytest.approx(-0.029)
    assert len(claim["values"]) == 20


def test_a_users_own_file_is_read_from_the_run(runs: Any, tmp_path: Path) -> None:
    folder = runs.one(method="mine", family=None, file="./mine.py", file_sha256="ab" * 32, command="")
    source = catalog.find("gcn").path.read_text().replace("Graph convolutional network:", "My own network:")
    (folder / "method.py").write_text(source.replace("hidden: int = 16", "hidden: int = 8"))
    page = check(write_report(folder))
    assert page.said("h1") == "My own network"
    assert title(page)[1] == "A run, not a verdict"  # hidden is 16, and the file's claims are for 8
    assert 'id="proof"' not in page.source


def test_a_method_that_is_gone_still_has_a_page(runs: Any, methods: Path) -> None:
    (methods / "graph" / "gcn.py").unlink()
    page = check(write_report(runs.one()))
    assert page.said("h1") == "gcn"
    assert title(page)[1] == "A run without a published number"


def test_the_same_folder_gives_the_same_page(runs: Any) -> None:
    folder = runs.seeds(NEAR[:3])
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_run_may_be_given_as_an_object(runs: Any) -> None:
    run = type("Run", (), {"folder": runs.one()})()
    assert write_report(run) == run.folder / "report.html"


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda folder: (folder / "run.json").unlink(), WrongInput, "is no run folder"),
        (lambda folder: (folder / "run.json").write_text("{"), RunUnusable, r"run\.json is damaged"),
        (lambda folder: (folder / "result.json").write_text("{"), RunUnusable, r"result\.json is damaged"),
    ],
)
def test_no_run_no_page(runs: Any, spoil: Any, error: type[Exception], message: str) -> None:
    folder = runs.one()
    spoil(folder)
    with pytest.raises(error, match=message):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_the_index_leads_to_every_page(runs: Any, tmp_path: Path) -> None:
    folders = [runs.one("a"), runs.seeds(NEAR, name="b"), runs.one("c", status="stopped", stopped=None)]
    for folder in folders:
        write_report(folder)
    path = write_index(folders, tmp_path / "pages" / "index.html")
    page = check(path)
    links = [value for tag, name, value in page.attributes if tag == "a" and name == "href"]
    assert [(path.parent / link).resolve() for link in links] == [folder / "report.html" for folder in folders]


# ── nothing in, nothing out ─────────────────────────────────────────────────────────────────────────────────────────


def test_everything_is_escaped(runs: Any) -> None:
    evil = '"><script>alert(1)</script><img src=http://x onerror=y>'
    folder = runs.one(
        f"n{random.Random(0).random()}",
        knobs={"data": (evil, "command line"), evil: (evil, evil)},
        command=evil,
        stage=dict(data=evil, hashes={evil: evil}),
        versions={evil: evil},
    )
    with (folder / "metrics.jsonl").open("a") as log:
        for step in (1, 2):
            log.write(json.dumps({"stage": "train", "step": step, evil: 1.0 * step}) + "\n")
    saving.save(torch.ones(1, 2, 2), folder / "pictures" / "train-&<b>")
    source = write_report(folder).read_text()
    assert "<script>alert" not in source
    assert "<img src=http" not in source
    assert "&lt;script&gt;alert(1)" in source
    Page(folder / "report.html")


def test_a_figure_is_only_drawing() -> None:
    evil = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9" onload="x()">'
        "<style>*{color:red}</style><script>x()</script><foreignObject><b>x</b></foreignObject>"
        '<a xlink:href="http://x"><text>hidden</text></a><image xlink:href="http://x/y.png"/>'
        '<path id="a" d="M 1.234 2.345 &#10;L 1.234 2.345" style="fill: url(http://x)"/>'
        '<path onclick="x()" style="stroke: #0072B2; fill: #123456; clip: url(#a)"/><use xlink:href="#a"/><g id="unused"/>'
        "<text style=\"font-family: 'DejaVu Sans Mono', monospace; fill: #1a1c1e\">a &lt; b</text></svg>"
    )
    out = inline_svg(evil, "p1-", 'what "it" is')
    assert out.startswith('<svg class="p" viewBox="0 0 9 9" role="img" aria-label="what &quot;it&quot; is"')
    gone = ["script", "foreign", "hidden", "http", "onload", "onclick", "unused", "#0072B2", "DejaVu", "color:red"]
    kept = ["var(--blue)", "#123456", 'id="p1-a"', 'href="#p1-a"', "url(#p1-a)", "var(--mono)", "var(--ink)"]
    kept += ["a &lt; b", "M1.2 2.3h0"]
    assert [words for words in gone if words in out] == []
    assert [words for words in kept if words not in out] == []


def test_images_are_small_and_ink_is_told_from_photographs(tmp_path: Path) -> None:
    digit = torch.ones(1, 28, 28)
    digit[:, 8:20, 12:16] = 0
    grey = torch.linspace(0, 1, 784).view(1, 28, 28)
    colour = torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(0))
    pages = [inline_image(saving.save(image, tmp_path / str(i)), "x") for i, image in enumerate((digit, grey, colour))]
    assert ["px ink" in page for page in pages] == [True, False, False]
    assert all('width="28" height="28"' in page for page in pages)
    with Image.open(BytesIO(base64.b64decode(re.findall(r"base64,([^\"]+)", pages[1])[0]))) as image:
        shades = set(image.convert("L").tobytes())
    assert shades == {17 * i for i in range(16)}
