"""The report as a researcher opens it: from disk, offline, in a real browser, on a desk and on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from argo import page as walks
from controller import page as looks
from edgecloud import page as tokens
from suite.report.html import write_report
from tests.chrome import CHROMIUM, Chrome
from tests.report_runs import EVIL, IMAGE, Words, argo_rows, controller_rows, specdec_rows, write_sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path; install chromium to check the pages in it"),
]
JOBS = "[...document.querySelectorAll('#jobs tbody tr')].filter(row => !row.hidden).map(row => row.dataset.job)"
PHONE = 390


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over three studies with its report and a page of samples for each study."""
    made = write_sweep(tmp_path_factory.mktemp("sweep"))
    tokens.write(made / "0" / "samples.html", specdec_rows(), Words())
    walks.write(made / "6" / "trajectories.html", argo_rows(), {})
    looks.write(made / "8" / "samples.html", controller_rows(), lambda _: IMAGE)
    write_report(made, baseline="0")
    return made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    chrome = Chrome(tmp_path_factory.mktemp("profile"))
    yield chrome
    chrome.close()


@pytest.fixture
def chrome(browser: Chrome, folder: Path) -> Iterator[Chrome]:
    """The report, open; at the end nothing was asked of a network and nothing went wrong."""
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(folder / "report.html")
    yield browser
    assert [address for address in browser.requests if not address.startswith(("file://", "data:"))] == []
    assert browser.complaints == []


def test_a_click_on_a_header_sorts_numbers_as_numbers_and_keeps_the_missing_last(chrome: Chrome) -> None:
    before = chrome.js(JOBS)
    assert before == [str(job) for job in range(12)]
    place = chrome.js("[...document.querySelectorAll('#jobs th')].findIndex(th => th.textContent.startsWith('bleu'))")
    button = f"#jobs th:nth-child({place + 1}) button"
    chrome.click(button)
    assert chrome.js(JOBS)[:6] == ["0", "1", "2", "3", "4", "5"]
    chrome.click(button)
    assert chrome.js(JOBS)[:6] == ["5", "4", "3", "2", "1", "0"]  # jobs without a BLEU stay below
    assert set(chrome.js(JOBS)[6:]) == {"6", "7", "8", "9", "10", "11"}
    assert chrome.js(f"document.querySelector('{button}').parentElement.ariaSort") == "descending"


def test_a_keyboard_sorts_and_ticks(chrome: Chrome) -> None:
    chrome.js("document.querySelector('#jobs th button').focus()")
    for _ in range(2):
        chrome.press("Enter")
    assert chrome.js(JOBS)[:3] == ["11", "10", "9"]  # as numbers, not as text
    chrome.js("document.querySelector('#jobs tbody input').focus()")
    chrome.press(" ")
    assert chrome.js("document.activeElement.checked")


def test_a_menu_and_a_search_hide_rows_cards_points_and_empty_columns(chrome: Chrome) -> None:
    def shown(css: str) -> Any:
        return chrome.js(f"[...document.querySelectorAll('{css}')].filter(one => !one.closest('[hidden]')).length")

    points = shown(".chart a")
    menu = "[...document.querySelectorAll('#filters label')].find(one => one.textContent.startsWith('task'))"
    choose = "(one => { one.value = 'argo'; one.dispatchEvent(new Event('input', {bubbles: true})) })"
    chrome.js(f"{choose}({menu}.querySelector('select'))")
    assert chrome.js(JOBS) == ["6", "7"]
    assert chrome.js("document.getElementById('shown').textContent") == "2 of 12 jobs"
    assert shown("details[data-job]") == 2
    assert 0 < shown(".chart a") < points
    heads = chrome.js("[...document.querySelectorAll('#jobs th.metric')].filter(h => !h.hidden).map(h => h.innerText)")
    assert [head.split()[0] for head in heads] == ["accuracy", "cost"]

    chrome.click("#filters button[type=reset]")
    chrome.until(lambda: len(chrome.js(JOBS)) == 12)
    assert shown(".chart a") == points
    chrome.click("input[name=find]")
    chrome.type("task.k=3 H100")
    assert chrome.js(JOBS) == ["2"]


def test_two_ticked_rows_show_how_their_configurations_differ(chrome: Chrome) -> None:
    assert chrome.js("document.getElementById('compare').hidden")
    for row in (0, 2):
        chrome.click("#jobs tbody input", row)
    text = chrome.js("document.getElementById('compare').innerText")
    assert "job 0\tjob 2" in text
    assert "task.k\t1\t3" in text
    assert "hardware.name\tlocal\th100" in text
    assert "same_for_all" not in text
    assert "bleu\t0.1 [0.09, 0.11]\t0.3 [0.27, 0.33]" in text
    chrome.click("#jobs tbody input", 2)
    chrome.click("#jobs tbody input", 1)
    text = chrome.js("document.getElementById('compare').innerText")
    assert "task.k\t1\t2" in text
    assert "hardware" not in text  # differs elsewhere in the sweep, not between these two
    chrome.click("#compare button")
    assert chrome.js("document.getElementById('compare').hidden")


def test_a_point_tells_its_job_and_leads_to_its_card(chrome: Chrome) -> None:
    assert "job 0" in chrome.js("document.querySelector('.chart a title').textContent")
    chrome.js("document.querySelector('.chart a').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    chrome.until(lambda: chrome.js("document.getElementById('run-0').open"))


def test_links_lead_to_the_samples_beside_the_page(chrome: Chrome) -> None:
    chrome.click("#jobs a[href$='samples.html']")
    chrome.until(lambda: chrome.js("document.title") == "Samples")
    assert chrome.js("[...document.querySelectorAll('.said')].map(one => one.textContent)[0]") == f"calm {EVIL} voice"


def test_what_a_sample_says_stays_text(chrome: Chrome, folder: Path) -> None:
    for page in ("report.html", "0/samples.html", "6/trajectories.html", "8/samples.html"):
        chrome.open(folder / page)
        assert EVIL in chrome.js("document.body.textContent")
        assert chrome.js("window.pwned === undefined")


@pytest.mark.parametrize("page", ["report.html", "0/samples.html", "6/trajectories.html", "8/samples.html"])
def test_on_a_phone_no_page_is_wider_than_the_screen(chrome: Chrome, folder: Path, page: str) -> None:
    chrome.open(folder / page, width=PHONE, height=844)
    chrome.js("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert chrome.js("innerWidth") == PHONE  # a browser zooms out where something is wider
    assert chrome.js("document.documentElement.scrollWidth") <= PHONE
    if page == "report.html":
        for row in (0, 2):
            chrome.click("#jobs tbody input", row)
        assert chrome.js("document.documentElement.scrollWidth") <= PHONE


CONTRAST = """
(() => {
  const level = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = one => {
    for (; one; one = one.parentElement) {
      const found = getComputedStyle(one).backgroundColor;
      if (!found.endsWith(', 0)')) return found;
    }
  };
  const bad = [];
  for (const one of document.querySelectorAll('body *')) {
    const own = [...one.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !one.checkVisibility() || ['STYLE', 'SCRIPT', 'TITLE', 'title'].includes(one.tagName)) continue;
    const look = getComputedStyle(one), colour = one.namespaceURI.endsWith('svg') ? look.fill : look.color;
    const [a, b] = [level(colour), level(ground(one))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) bad.push(`${one.tagName}.${one.className} ${colour} on ${ground(one)}`);
  }
  return [...new Set(bad)];
})()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", ["report.html", "0/samples.html", "6/trajectories.html", "8/samples.html"])
def test_text_stands_out_in_both_modes(chrome: Chrome, folder: Path, page: str, dark: bool) -> None:
    chrome.open(folder / page, dark=dark)
    chrome.js("document.querySelectorAll('details').forEach(one => { one.open = true })")
    ground = chrome.js("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    assert chrome.js(CONTRAST) == []


def test_every_table_has_headers_and_every_control_a_name(chrome: Chrome) -> None:
    assert chrome.js("[...document.querySelectorAll('table')].every(t => t.tHead.querySelector('th[scope=col]'))")
    assert chrome.js("[...document.querySelectorAll('input, select')].every(c => c.labels.length || c.ariaLabel)")
    assert chrome.js("[...document.querySelectorAll('img')].every(i => i.alt)")
    assert chrome.js("document.documentElement.lang") == "en"


def test_a_thousand_jobs_open_and_filter(chrome: Chrome, tmp_path: Path) -> None:
    many = write_sweep(tmp_path / "many", jobs=1000)
    chrome.open(write_report(many))
    assert len(chrome.js(JOBS)) == 1000
    chrome.click("input[name=find]")
    chrome.type("task.k=999")
    assert chrome.js(JOBS) == ["998"]
    shutil.rmtree(many)
