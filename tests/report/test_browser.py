"""The page in a real browser, the same for all tests: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import base64
import io
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_studies import HOSTILE, Trial, made_study, painted, plausible
from PIL import Image
from synthetic_study import long_study

from raycae.report.page import write_report
from raycae.report.report_data import read_report_data
from raycae.report.sampled_values import get_positions
from raycae.study import tables

RECORDED = Path(__file__).resolve().parents[2] / "analysis" / "recorded"
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
FIGURES = ("ladder", "latent-error", "latent-positions", "latent-channels", "learning-curves")
FIGURES += ("best-by-trial", "best-by-hour", "workers")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        # Tests run as root in a container, where Chromium's sandbox does not start.
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(autouse=True)
def _pages_are_closed(browser: Any) -> Iterator[None]:
    """A page that is left open goes on drawing."""
    yield
    for context in browser.contexts:
        context.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of thirty trials, its report written."""
    folder = plausible(tmp_path_factory.mktemp("browser") / "s", n=30)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of sixty configurations, so that parameters are ranked; its report written."""
    folder = long_study(tmp_path_factory.mktemp("long") / "s", 240)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the reports of two recorded studies, each in a folder with the study's name."""
    folder = tmp_path_factory.mktemp("recorded")
    for name in ("demo", "frontier"):
        (folder / name).mkdir()
        write_report(RECORDED / name, folder / name / "report.html")
    return folder


class Opened:
    """A page, and what it complained of or asked the network for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.page = browser.new_context(**context).new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto((path / "report.html").as_uri())

    def drawn(self, figure: str) -> Any:
        """The figure once it is drawn, which it is when it comes near the window."""
        self.page.locator(f"#{figure}").scroll_into_view_if_needed()
        return self.page.wait_for_selector(f"#{figure}.js-plotly-plot .main-svg", timeout=20_000)

    def wait_until_all_are_drawn(self) -> None:
        """Wait for the figures, without scrolling; the policy forbids `wait_for_function`."""
        while self.page.evaluate("pending.size"):
            self.page.wait_for_timeout(50)

    def fetched(self) -> list[str]:
        """Requests that are for neither the page itself nor what lies in it."""
        inside = ("file:", "data:", "blob:")
        return [url for url in self.requests if not url.startswith(inside)]

    def lonely_point(self) -> tuple[float, float, int]:
        """Of "latent size against error" the trial farthest from all others: where its point is on
        the window, and its number."""
        self.drawn("latent-error")
        place = self.page.evaluate(
            """() => {
              const plot = document.getElementById("latent-error");
              const { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect();
              const traces = plot._fullData.filter(trace => trace.mode === "markers");
              const left = box.left + xaxis._offset, top = box.top + yaxis._offset;
              const points = traces.flatMap(({ x, y, customdata }) => customdata.map(
                (number, i) => [left + xaxis.d2p(x[i]), top + yaxis.d2p(y[i]), number]));
              const far = (p, q) => Math.hypot(p[0] - q[0], p[1] - q[1]);
              const room = p => Math.min(...points.filter(q => q !== p).map(q => far(p, q)));
              return points.reduce((a, b) => room(a) >= room(b) ? a : b);
            }"""
        )
        return tuple(place)


@pytest.mark.parametrize(
    ("width", "scheme"), [(390, "light"), (1600, "dark")], ids=["phone", "wide and dark"]
)
def test_every_figure_is_drawn(browser: Any, study: Path, width: int, scheme: str) -> None:
    """Oracle: nothing on the console, nothing asked of the network, each figure an SVG that fills
    its place, nothing wider than the window, ink that differs from the page."""
    view = {"width": width, "height": 900}
    opened = Opened(browser, study, viewport=view, color_scheme=scheme)
    for figure in FIGURES:
        box = opened.drawn(figure).bounding_box()
        assert 0.5 * min(width, 500) < box["width"] <= width
        assert opened.page.locator(f"#{figure} .scatterlayer path").count() > 0
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    ink, page = opened.page.evaluate(
        "(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))"
    )
    dark = [sum(map(int, colour[4:-1].split(","))) < 3 * 128 for colour in (ink, page)]
    assert dark == ([True, False] if scheme == "light" else [False, True])
    assert opened.complaints == []
    assert opened.fetched() == []


def test_a_screenshot_of_the_whole_page_has_every_figure(browser: Any, long: Path) -> None:
    """Oracle: every element of a figure holds a drawing, though the page was never scrolled."""
    opened = Opened(browser, long, viewport={"width": 1366, "height": 800})
    opened.wait_until_all_are_drawn()
    places = opened.page.locator(".plot")
    assert places.count() == opened.page.evaluate("Object.keys(figures).length") > 15
    for place in places.all():
        assert place.locator(".main-svg").count() > 0
    assert opened.complaints == []


def test_paper_cuts_no_figure(browser: Any, study: Path) -> None:
    """Oracle: on A4 less margins of 14 mm, 182 mm are left; every drawing has the width of its
    place, and afterwards that of the window again."""
    opened = Opened(browser, study, viewport={"width": 1366, "height": 800}, color_scheme="dark")
    widths = """() => [...document.querySelectorAll(".plot")].map(place =>
        [place.getBoundingClientRect().right, place.clientWidth,
         place.querySelector(".main-svg").getBoundingClientRect().width])"""
    opened.wait_until_all_are_drawn()
    before = opened.page.evaluate(widths)
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    paper_px = 182 / 25.4 * 96
    for right, place, drawing in opened.page.evaluate(widths):
        assert right <= paper_px + 5
        assert drawing == place
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.page.evaluate(widths) == before
    assert opened.complaints == []


def test_what_was_searched_is_drawn_and_colours_the_points(browser: Any, long: Path) -> None:
    """Oracle: a slice for every parameter of the space; the points take as many colours as the
    depths that are on the page, and are all of one colour again; a click on a slice tells of a
    trial."""
    opened = Opened(browser, long, viewport={"width": 390, "height": 900})
    names = opened.page.evaluate("colours.map(colour => colour.name)")
    assert {"depth", "lr", "channels_1"} <= set(names)
    for figure in (*(f"slice-{name}" for name in names), "importance", "parallel"):
        opened.drawn(figure)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    shades = """() => document.getElementById("latent-error").data
        .filter(trace => trace.name === "complete" && trace.customdata)
        .map(trace => trace.marker.color)"""
    opened.drawn("latent-error")
    (plain,) = opened.page.evaluate(shades)
    assert isinstance(plain, str)
    opened.page.select_option("[name=colour]", str(names.index("depth")))
    (coloured,) = opened.page.evaluate(shades)
    assert len(set(coloured)) == 4
    opened.page.select_option("[name=colour]", "")
    assert opened.page.evaluate(shades) == [plain]
    number = opened.page.evaluate("document.getElementById('slice-lr').data[0].customdata[0]")
    picked = "number => clicked({ points: [{ customdata: number }] }, 'slice-lr')"
    opened.page.evaluate(picked, number)
    assert opened.page.inner_text("#trial h3").startswith(f"trial {number}: ")
    assert opened.complaints == []


@pytest.mark.parametrize("width", [390, 1000, 1400])
def test_the_colour_bar_has_a_title_and_overlaps_nothing(
    browser: Any, long: Path, width: int
) -> None:
    """Oracle: geometry. The colour bar's parts lie in the figure, below the title of the axis and
    beside one another. The legend's markers of trials are grey, and have a point's colour again
    when the state colours the points."""
    opened = Opened(browser, long, viewport={"width": width, "height": 900})
    opened.drawn("latent-error")
    legend = """() => [...document.querySelectorAll("#latent-error .legend .traces")].map(entry => [
        entry.textContent, getComputedStyle(entry.querySelector(".legendpoints path") ?? entry).fill
    ]).sort()"""
    plain = opened.page.evaluate(legend)
    opened.page.select_option("[name=colour]", label="channels_1")
    boxes, title, plot, texts = opened.page.evaluate(
        """() => {
          const plot = document.getElementById("latent-error");
          const box = element => {
            const { left, top, right, bottom } = element.getBoundingClientRect();
            return [left, top, right, bottom];
          };
          const parts = ".colorbar :is(.cbfill:first-child, .cbtitle text, .cbaxis text)";
          const drawn = [...plot.querySelectorAll(parts)];
          return [drawn.map(box), box(plot.querySelector(".xtitle")), box(plot),
                  drawn.map(part => part.textContent)];
        }"""
    )
    assert "channels_1" in texts
    assert len(boxes) >= 4  # the title, the bar and its ends
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert plot[0] <= left <= right <= plot[2]
        assert title[3] <= top <= bottom <= plot[3]
        for other in boxes[:i]:
            apart = left >= other[2] - 1 or right <= other[0] + 1
            assert apart or top >= other[3] - 1 or bottom <= other[1] + 1
    grey = opened.page.evaluate(legend)
    assert ["complete", "rgb(59, 130, 196)"] in plain
    assert grey == [[n, "rgb(138, 143, 150)" if n == "complete" else fill] for n, fill in plain]
    opened.page.select_option("[name=colour]", "")
    assert opened.page.evaluate(legend) == plain
    assert opened.complaints == []


def test_a_phone_cuts_no_title_and_has_no_gaps(browser: Any, tmp_path: Path) -> None:
    """Oracle: geometry. The titles of all axes lie in their figures, and a figure that brings its
    own height leaves no blank below it. The recorded study has long names of single changes."""
    shutil.copytree(RECORDED / "frontier", tmp_path / "s")
    write_report(tmp_path / "s")
    opened = Opened(browser, tmp_path / "s", viewport={"width": 390, "height": 900})
    opened.wait_until_all_are_drawn()
    cut, gaps = opened.page.evaluate(
        """() => {
          const box = element => element.getBoundingClientRect();
          const all = ".plot:not(.parallel) :is(.xtitle, .ytitle)";
          const titles = [...document.querySelectorAll(all)];
          const cut = titles.filter(title => {
            const { left, right } = box(title), plot = box(title.closest(".plot"));
            return left < plot.left - 1 || right > plot.right + 1;
          });
          const gaps = [...document.querySelectorAll(".fitted")].filter(plot =>
            Math.abs(box(plot).height - box(plot.querySelector(".main-svg")).height) > 8);
          return [cut.map(title => title.textContent), gaps.map(plot => plot.id)];
        }"""
    )
    assert cut == []
    assert gaps == []


def test_the_strip_is_cut_from_the_sheets(browser: Any, tmp_path: Path) -> None:
    """Oracle: Pillow. The sheets show every second of their images in the strip: the first row of
    the first sheet, the second of both, and the fourth of the one that has PCA."""
    plan = {"objective": "frontier", "strata": [64, 256], "sampler": "strata"}
    trials = [Trial([0.02 / n], settings={"latent_channels": n}) for n in (1, 4)]
    folder = made_study(tmp_path / "s", trials, asked=plan)
    for number, n_rows in ((0, 3), (1, 4)):
        painted(folder, number, n_rows)
    frame = pd.read_parquet(folder / "pictures.parquet")
    mean = frame[(frame["trial_number"] == 1) & (frame["shows"] == "all")]
    frame = pd.concat([frame, mean.assign(shows="pca")])
    frame.to_parquet(folder / "pictures.parquet", index=False)
    write_report(folder)
    opened = Opened(browser, folder, viewport={"width": 1200, "height": 900})
    uri = opened.page.evaluate("document.querySelector('.strip canvas').toDataURL()")
    strip = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert strip.size == (6 * 34 - 2, 4 * 34 - 2)
    for i, (trial, row) in enumerate(((0, 0), (0, 1), (1, 1), (1, 3))):
        sheet = Image.open(folder / "pictures" / f"{trial}.png").convert("RGBA")
        for column in range(6):
            shown = strip.crop((34 * column, 34 * i, 34 * column + 32, 34 * i + 32))
            left, top = 68 * column, 34 * row
            assert shown.tobytes() == sheet.crop((left, top, left + 32, top + 32)).tobytes()
    assert opened.complaints == []


def test_hover_and_click_tell_of_a_trial(browser: Any, study: Path) -> None:
    """Oracle: the trial that the figure has at that point; its network in words, its curve; the
    best trial's pictures, which are the only ones painted."""
    opened = Opened(browser, study, viewport={"width": 1200, "height": 900})
    x, y, number = opened.lonely_point()
    opened.page.mouse.move(x, y, steps=4)
    label = opened.page.wait_for_selector("#latent-error .hoverlayer .hovertext")
    assert "latent size" in label.text_content()
    assert "conv" in label.text_content()
    opened.page.mouse.click(x, y)
    told = opened.page.wait_for_selector("#trial .js-plotly-plot .main-svg")
    assert told.bounding_box()["width"] > 300
    said = opened.page.inner_text("#trial")
    assert f"trial {number}" in said
    assert "parameters" in said
    best = int(opened.page.get_attribute("figure[data-trial]", "data-trial"))
    picked = "number => clicked({ points: [{ customdata: number }] }, 'latent-error')"
    opened.page.evaluate(picked, best)
    assert f"trial {best}" in opened.page.inner_text("#trial")
    assert opened.page.locator("#trial img").count() == 1
    assert opened.complaints == []


def test_a_click_opens_the_trial_below_the_pointer(browser: Any, study: Path) -> None:
    """Oracle: the place of the dot. The pointer comes from a dot close by, and the click follows
    within the 50 ms in which plotly does not look for points again. The label is of that trial."""
    opened = Opened(browser, study, viewport={"width": 1200, "height": 900})
    opened.wait_until_all_are_drawn()
    number = opened.page.evaluate(
        """() => {
          const plot = document.getElementById("latent-error"), box = plot.getBoundingClientRect();
          const { xaxis, yaxis } = plot._fullLayout;
          const left = box.left + xaxis._offset, top = box.top + yaxis._offset;
          const points = plot._fullData.filter(trace => trace.name === "complete").flatMap(
            ({ x, y, customdata }) => customdata.map(
              (number, i) => [left + xaxis.d2p(x[i]), top + yaxis.d2p(y[i]), number]));
          const far = ([p, q]) => Math.hypot(p[0] - q[0], p[1] - q[1]);
          const pairs = points.flatMap((p, i) => points.slice(i + 1).map(q => [p, q]));
          const pair = pairs.reduce((a, b) => far(b) > 4 && far(b) < far(a) ? b : a);
          const send = (type, [clientX, clientY]) => document.elementFromPoint(clientX, clientY)
            .dispatchEvent(new MouseEvent(type, { bubbles: true, view: window, clientX, clientY }));
          send("mousemove", pair[0]);
          for (const type of ["mousemove", "mousedown", "mouseup"]) send(type, pair[1]);
          return pair[1][2];
        }"""
    )
    title = opened.page.wait_for_selector("#trial h3", timeout=5_000).inner_text()
    label = opened.page.locator("#latent-error .hovertext").text_content()
    assert title.startswith(f"trial {number}: ")
    assert label.startswith(f"trial {number}: ")
    assert opened.complaints == []


def test_the_view_changes_with_its_switches(browser: Any, study: Path) -> None:
    """Oracle: 10 log10(1 / MSE) of what the MSE view drew, for trials and PCA alike; the mean PSNR
    is what the table has, without PCA, and its Pareto front is found here over all pairs of trials;
    linear axes are linear; back again it is as it was."""
    opened = Opened(browser, study, viewport={"width": 1200, "height": 900})
    opened.drawn("latent-error")
    state = """() => { const { data, layout } = document.getElementById("latent-error");
        const complete = data.find(trace => trace.name === "complete");
        return [layout.xaxis.type, layout.yaxis.type, layout.yaxis.title.text,
                data.map(trace => trace.name), complete.y[0]]; }"""
    line = """name => { const { x, y } = document.getElementById("latent-error").data
        .find(trace => trace.name.startsWith(name)); return [x, y]; }"""
    before = opened.page.evaluate(state)
    mses = {name: opened.page.evaluate(line, name)[1] for name in before[3]}
    opened.page.select_option("[name=error]", "psnr")
    _, y_type, title, names, _ = opened.page.evaluate(state)
    assert y_type == "linear"
    assert title == "PSNR of the mean validation error, dB"
    assert any(name.startswith("PCA") for name in names)
    for name in names:
        decibels = [-10 * math.log10(mse) for mse in mses[name]]
        assert opened.page.evaluate(line, name)[1] == pytest.approx(decibels)
    opened.page.select_option("[name=error]", "mean-psnr")
    _, _, title, names, psnr = opened.page.evaluate(state)
    assert title == "mean PSNR of the validation images, dB"
    assert not any(name.startswith("PCA") for name in names)
    assert 5 < psnr < 60
    trials = tables.read_trials(study)
    trials = trials[trials["state"].isin(["COMPLETE", "PRUNED"]) & trials["val_mse"].notna()]
    pairs = trials[["latent_size", "val_psnr_db"]].to_numpy().tolist()
    front = sorted(
        (size, db)
        for size, db in pairs
        if not any(s <= size and d >= db and (s, d) != (size, db) for s, d in pairs)
    )
    x, y = opened.page.evaluate(line, "Pareto front")
    assert x == [size for size, _ in front]
    assert y == pytest.approx([db for _, db in front])
    opened.page.select_option("[name=error]", "mse")
    opened.page.uncheck("#view [name=x]")
    opened.page.uncheck("#view [name=y]")
    assert opened.page.evaluate(state)[:2] == ["linear", "linear"]
    opened.page.check("[name=x]")
    opened.page.check("[name=y]")
    assert opened.page.evaluate(state) == before
    assert opened.complaints == []


def drag_in_plot(page: Any, figure: str) -> None:
    """Drag over the middle ninth of a figure's plotting area."""
    x, y, width, height = page.evaluate(
        """id => {
          const plot = document.getElementById(id), box = plot.getBoundingClientRect();
          const { xaxis, yaxis } = plot._fullLayout;
          return [box.left + xaxis._offset, box.top + yaxis._offset, xaxis._length, yaxis._length];
        }""",
        figure,
    )
    page.mouse.move(x + width / 3, y + height / 3)
    page.mouse.down()
    page.mouse.move(x + 2 * width / 3, y + 2 * height / 3, steps=4)
    page.mouse.up()


def test_a_mouse_zooms_and_the_view_is_reset(browser: Any, long: Path) -> None:
    """Oracle: dragging over the middle ninth leaves a third of both ranges. Another colour or the
    same view keeps that; another scale does not. The button, by keyboard, and a double click
    restore the ranges, and hide the button."""
    opened = Opened(browser, long, viewport={"width": 1200, "height": 900})
    opened.drawn("latent-error")
    ranges = """() => {
        const { xaxis, yaxis } = document.getElementById("latent-error")._fullLayout;
        return [...xaxis.range, ...yaxis.range];
    }"""
    reset = opened.page.locator("#latent-error").locator("xpath=preceding-sibling::button")
    before = opened.page.evaluate(ranges)
    assert not reset.is_visible()
    drag_in_plot(opened.page, "latent-error")
    reset.wait_for(state="visible", timeout=5_000)
    zoomed = opened.page.evaluate(ranges)
    for now, whole in ((zoomed[:2], before[:2]), (zoomed[2:], before[2:])):
        assert now[1] - now[0] == pytest.approx((whole[1] - whole[0]) / 3, rel=0.05)
    opened.page.select_option("[name=colour]", "0")
    assert opened.page.evaluate(ranges) == pytest.approx(zoomed)
    assert reset.is_visible()
    reset.focus()
    opened.page.keyboard.press("Enter")
    reset.wait_for(state="hidden", timeout=5_000)
    assert opened.page.evaluate(ranges) == pytest.approx(before)
    drag_in_plot(opened.page, "latent-error")
    reset.wait_for(state="visible", timeout=5_000)
    opened.page.uncheck("#view [name=x]")
    opened.page.uncheck("#view [name=y]")
    assert not reset.is_visible()
    linear = opened.page.evaluate(ranges)
    drag_in_plot(opened.page, "latent-error")
    reset.wait_for(state="visible", timeout=5_000)
    box = opened.page.locator("#latent-error").bounding_box()
    opened.page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    reset.wait_for(state="hidden", timeout=5_000)
    assert opened.page.evaluate(ranges) == pytest.approx(linear)
    assert opened.complaints == []


def test_a_finger_scrolls_and_does_not_zoom(browser: Any, study: Path) -> None:
    """Oracle: on a touch screen no figure takes a drag: plotly has no mode for it, the axes are
    fixed, and the browser pans."""
    touch = {"has_touch": True, "is_mobile": True}
    opened = Opened(browser, study, viewport={"width": 390, "height": 900}, **touch)
    opened.drawn("latent-error")
    assert opened.page.evaluate(
        """() => {
            const layout = document.getElementById("latent-error")._fullLayout;
            return [layout.dragmode, layout.xaxis.fixedrange, layout.yaxis.fixedrange];
        }"""
    ) == [False, True, True]
    assert opened.page.locator(".reset").count() == 0
    scrolls = """getComputedStyle(document.querySelector("#latent-error .nsewdrag")).touchAction"""
    assert opened.page.evaluate(scrolls) in ("auto", "pan-y", "manipulation")
    assert opened.complaints == []


def test_sliders_grey_out_lines_and_filter_the_table(browser: Any, recorded: Path) -> None:
    """Oracle: pandas on the table of the recorded study: the trials with the last choice of
    `activation` and at most half of the range of `latent_channels`, which is logarithmic. They are
    counted in the text, drawn in colour, and left in the table, and the others are grey; the reset
    button restores all."""
    opened = Opened(browser, recorded / "frontier", viewport={"width": 1200, "height": 900})
    opened.drawn("parallel")
    trials = tables.read_trials(RECORDED / "frontier").set_index("trial_number")
    assert opened.page.inner_text("#brush-count") == f"All {len(trials)} trials."
    opened.page.get_by_label("Lowest activation").focus()
    opened.page.keyboard.press("End")
    opened.page.get_by_label("Highest latent_channels").fill("50")
    last, scale = opened.page.evaluate(
        """["activation", "latent_channels"].map(name => colours.find(c => c.name === name))
            .map(({ marks, scale }) => scale ?? marks.at(-1)[1])"""
    )
    middle = math.sqrt(scale[0] * scale[1])
    inside = trials[
        (trials["params_activation"] == last) & (trials["params_latent_channels"] <= middle)
    ]
    assert 0 < len(inside) < len(trials)
    text = f"{len(inside)} of {len(trials)} trials are within these ranges."
    assert opened.page.inner_text("#brush-count").startswith(text)
    assert opened.page.get_attribute("#brush-count", "aria-live") == "polite"
    rows = opened.page.locator("#trials td:first-child")
    assert sorted(map(int, rows.all_inner_texts())) == sorted(inside.index)
    counted = """() => Object.fromEntries(document.getElementById("parallel").data.map(
        ({ name, x, y }) => {
          const drawn = y.filter((value, i) => x[i] === "activation" && value !== null);
          return [name, drawn.length];
        }))"""
    drawn = opened.page.evaluate(counted)
    assert drawn.pop("outside") == len(trials) - len(inside)
    assert sum(drawn.values()) == len(inside)
    opened.page.click("#brush button")
    opened.page.wait_for_timeout(100)
    assert opened.page.inner_text("#brush-count") == f"All {len(trials)} trials."
    assert "outside" not in opened.page.evaluate(counted)
    assert rows.count() == len(trials)
    assert opened.complaints == []


@pytest.mark.parametrize("pair", [("lr", "latent_channels"), ("activation", "lr")])
def test_the_map_is_a_local_mean(browser: Any, recorded: Path, pair: tuple[str, str]) -> None:
    """Oracle: the Nadaraya-Watson estimate with a normal kernel of 0.12 of the range, or of equal
    choices, computed here from the table of the recorded study; the sentence and the alt text say
    its ends."""
    opened = Opened(browser, recorded / "frontier", viewport={"width": 390, "height": 900})
    for name, parameter in zip("xy", pair, strict=True):
        opened.page.select_option(f"#map-view [name={name}]", parameter)
    opened.drawn("map")
    data = read_report_data(RECORDED / "frontier")
    trials = data.trials[data.trials["val_mse"].notna()]
    places = get_positions(trials, {name: data.parameters[name] for name in pair})
    logs = np.log10(trials["val_mse"].astype(float).to_numpy())

    def mean(x: float, y: float) -> float | None:
        weights = np.ones(len(trials))
        for node, name in zip((x, y), pair, strict=True):
            apart = np.abs(places[name].to_numpy() - node)
            weights *= apart < 0.01 if name == "activation" else np.exp(-0.5 * (apart / 0.12) ** 2)
        if weights.sum() < math.exp(-2):
            return None
        return float((weights * logs).sum() / weights.sum())

    nodes = [0.0, 0.5, 1.0] if pair[0] == "activation" else [0.0, 0.13, 0.5, 1.0]
    found = opened.page.evaluate(
        """([pair, xs, ys]) => {
            const [x, y] = pair.map(name => colours.find(colour => colour.name === name));
            const points = Object.keys(x.at).map(
                number => [x.at[number], y.at[number], Math.log10(known[number].mse)]);
            return smooth(points, x, y, xs, ys);
        }""",
        [pair, nodes, [0.0, 0.3, 0.77]],
    )
    for row, y in zip(found, (0.0, 0.3, 0.77), strict=True):
        assert row == [pytest.approx(mean(x, y), abs=0.01) for x in nodes]
    means = [mean(x, y) for x, y in places[list(pair)].to_numpy()]
    sentence = opened.page.inner_text("#map-sentence")
    assert sentence.startswith(f"Over {pair[0]} and {pair[1]}, the smoothed error of {len(trials)}")
    named = [float(part.split(" at ")[0]) for part in re.split(" from | to ", sentence)[1:]]
    assert named == pytest.approx([10 ** min(means), 10 ** max(means)], rel=0.03)
    assert opened.page.get_attribute("#map", "aria-label") == f"Contour map. {sentence}"
    images, numbers = opened.page.evaluate(
        """(({ layout, data }) => [layout.images.length, data[0].customdata])
            (document.getElementById("map"))"""
    )
    assert images == 1
    assert opened.page.locator("#map image").count() == 1
    assert sorted(numbers) == sorted(trials["trial_number"])
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.complaints == []


def test_the_strip_and_the_figure_begin_on_the_first_screen(browser: Any, recorded: Path) -> None:
    """Oracle: geometry, at 1366 x 800: a fifth of each is visible before the page is scrolled."""
    opened = Opened(browser, recorded / "demo", viewport={"width": 1366, "height": 800})
    opened.wait_until_all_are_drawn()
    assert opened.page.evaluate("scrollY") == 0
    for part in ("#latent-error", ".strip canvas"):
        box = opened.page.locator(part).bounding_box()
        assert box["y"] + box["height"] / 5 <= 800
    assert opened.complaints == []


def test_the_details_of_a_trial_have_its_network_and_a_described_curve(
    browser: Any, recorded: Path
) -> None:
    """Oracle: the recorded demo has a drawing for each trial, whose text is the network; the alt
    text of the curve names the first and the last error in the table of epochs."""
    opened = Opened(browser, recorded / "demo", viewport={"width": 1366, "height": 800})
    opened.page.locator("#trials td button").get_by_text("2", exact=True).click()
    curve = opened.page.wait_for_selector("#trial .js-plotly-plot")
    epochs = tables.read_epochs(RECORDED / "demo")
    errors = epochs[epochs["trial_number"] == 2].sort_values("epoch")["val_mse"].astype(float)
    assert curve.get_attribute("role") == "img"
    label = curve.get_attribute("aria-label")
    named = [float(text) for text in re.findall(r"(?:error |, )([0-9.e-]+) after", label)]
    assert label.startswith("Learning curve of trial 2: ")
    assert named == pytest.approx([errors.iloc[0], errors.iloc[-1]], rel=1e-3)
    drawing = opened.page.locator("#trial .network-drawing")
    assert drawing.count() == 1
    text = opened.page.locator(".network-drawing[data-network='2']").first.get_attribute(
        "aria-label"
    )
    assert drawing.get_attribute("aria-label") == text
    assert opened.complaints == []


def test_the_table_turns_its_pages_and_sorts(browser: Any, tmp_path: Path) -> None:
    """Oracle: sixty trials in pages of fifty; sorted by number the first is trial 0."""
    folder = plausible(tmp_path / "s", n=60)
    write_report(folder)
    opened = Opened(browser, folder, viewport={"width": 1200, "height": 900})
    visible = "#trials tbody tr:not([hidden])"
    assert opened.page.locator(visible).count() == 50
    opened.page.click("#pages button:last-of-type")
    assert opened.page.locator(visible).count() == 10
    opened.page.click("#trials th button")
    assert opened.page.inner_text(f"{visible} td") == "0"
    assert opened.complaints == []


def test_the_table_filters_and_works_by_keyboard(browser: Any, study: Path) -> None:
    """Oracle: the states in the table of the study; a heading sorts and a number shows its trial
    with Enter alone; the table fits its box."""
    opened = Opened(browser, study, viewport={"width": 1400, "height": 900})
    rows = opened.page.locator("#trials tbody tr")
    states = tables.read_trials(study)["state"].tolist()
    opened.page.focus("#filter")
    opened.page.keyboard.type("pruned conv")
    assert rows.count() == states.count("PRUNED") > 0
    opened.page.keyboard.press("Tab")  # to the download
    opened.page.keyboard.press("Tab")  # to the box of the table
    opened.page.keyboard.press("Tab")
    opened.page.keyboard.press("Enter")
    numbers = [
        int(text) for text in opened.page.locator("#trials td:first-child").all_inner_texts()
    ]
    assert numbers == sorted(numbers)
    opened.page.focus("#trials tbody tr:first-child button")
    opened.page.keyboard.press("Enter")
    assert opened.page.inner_text("#trial h3").startswith(f"trial {numbers[0]}: PRUNED")
    opened.page.fill("#filter", "no such word")
    assert rows.count() == 0
    assert opened.page.inner_text("#pages output") == "No trial matches the filter."
    opened.page.fill("#filter", "")
    assert rows.count() == len(states)
    assert opened.page.evaluate(
        "(({ scrollWidth, clientWidth }) => scrollWidth <= clientWidth)"
        "(document.querySelector('#trials').parentElement)"
    )
    assert opened.complaints == []


@pytest.mark.parametrize("width", [390, 1366])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["demo", "frontier"])
def test_the_page_is_accessible(
    browser: Any, recorded: Path, name: str, scheme: str, width: int
) -> None:
    """Oracle: axe-core finds nothing serious or critical on the pages of two recorded studies, one
    of them with pictures, and with a trial's details open: among it contrast below 4.5:1."""
    sync_playwright = pytest.importorskip("axe_playwright_python.sync_playwright")
    view = {"width": width, "height": 800}
    opened = Opened(browser, recorded / name, viewport=view, color_scheme=scheme, bypass_csp=True)
    opened.wait_until_all_are_drawn()
    opened.page.locator("#trials td button").first.click()
    opened.page.wait_for_selector("#trial .js-plotly-plot")
    found = sync_playwright.Axe().run(opened.page).response["violations"]
    assert [
        (finding["id"], finding["nodes"][0]["html"])
        for finding in found
        if finding["impact"] in ("serious", "critical")
    ] == []


def test_the_table_is_a_csv_file_and_the_contents_lead_to_sections(
    browser: Any, study: Path, tmp_path: Path
) -> None:
    """Oracle: pandas reads as many trials from the file as the study has, with the same errors;
    every link leads to a heading."""
    opened = Opened(browser, study, viewport={"width": 1200, "height": 900})
    with opened.page.expect_download() as download:
        opened.page.click("#csv")
    download.value.save_as(tmp_path / "trials.csv")
    table = pd.read_csv(tmp_path / "trials.csv").set_index("trial")
    trials = tables.read_trials(study).set_index("trial_number")
    assert sorted(table.index) == sorted(trials.index)
    for number in table.index[table["val_mse"].notna()]:
        assert table.loc[number, "val_mse"] == pytest.approx(
            trials.loc[number, "val_mse"], rel=0.01
        )
    targets = opened.page.evaluate(
        """[...document.querySelectorAll("#contents a")]
            .map(link => document.querySelector(link.hash).textContent)"""
    )
    assert targets == opened.page.locator("main h2").all_text_contents()
    assert opened.complaints == []


def test_a_hostile_study_runs_nothing(browser: Any, tmp_path: Path) -> None:
    """Oracle: no dialog opens, no element has the attacker's handler, and its name is the title."""
    trials = [Trial([0.02, 0.01], point=HOSTILE), Trial([], "FAIL", reason=HOSTILE)]
    folder = painted(made_study(tmp_path / "s", trials, study=HOSTILE), 0, n_rows=2)
    write_report(folder)
    dialogs: list[str] = []
    opened = Opened(browser, folder, viewport={"width": 900, "height": 900})
    opened.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    x, y, _ = opened.lonely_point()
    opened.page.mouse.click(x, y)
    opened.page.wait_for_selector("#trial .js-plotly-plot")
    assert HOSTILE in opened.page.inner_text("#trial")
    assert opened.page.locator("[onerror]").count() == 0
    assert opened.page.inner_text("h1") == HOSTILE
    assert dialogs == []
    assert opened.complaints == []
