"""The page in a browser: Debian's Chromium, headless, driven by Playwright.

DAYFLY_TEST_SCREENSHOT, the name of a file, keeps a picture of it; DAYFLY_TEST_SCREENSHOTS, a
folder, one of each width and scheme.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from .conftest import NewServer, Server, key_new, wait_for

CHROMIUM = next(filter(None, (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))), "")
REFUSED = re.compile("the server responded with a status of (422|502|503)")
"""What Chromium says of an answer that a test asks for; every other complaint of its fails the
test."""
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


EDITOR = "#code .cm-content"
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
"""axe-core, which looks for what keeps people out: contrast, labels, order."""


def write(page: Page, text: str) -> None:
    """Replace the program, as a person does: select all, and type or paste."""
    page.focus(EDITOR)
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")  # over coloured text Chromium would put style attributes around what is inserted, and complain
    page.keyboard.insert_text(text)


def program(page: Page) -> str:
    text: str = page.evaluate("program.state.doc.toString()")
    return text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "no chromium: run  make test-page"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, shared: Server) -> Iterator[Page]:
    """The page of the shared server. Anything that the browser complains of fails the test, and so
    does a request to elsewhere."""
    context = browser.new_context(base_url=shared.url, viewport={"width": 1000, "height": 900})
    page = context.new_page()
    page.set_default_timeout(30_000)
    wrong: list[str] = []
    page.on(
        "console",
        lambda message: wrong.append(message.text) if message.type in ("error", "warning") and not REFUSED.search(message.text) else None,
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith((shared.url, "data:", "blob:")) else wrong.append(request.url))
    page.goto("/")
    expect(page.locator("#limits")).to_contain_text("no network")
    yield page
    context.close()
    assert wrong == []


def test_output_is_live_and_stderr_is_told_apart(page: Page) -> None:
    write(page, "import sys, time\nprint('one')\nprint('<b>two</b>', file=sys.stderr)\ntime.sleep(2)\nprint('three')")
    page.click("#run")
    output = page.locator("#output")
    expect(output.locator(".stdout").first).to_contain_text("one")
    expect(page.locator("#badges")).to_have_text("running")  # and yet its output is there
    expect(output.locator(".stderr")).to_have_text("<b>two</b>\n")
    expect(output).not_to_contain_text("three")
    expect(page.locator("#stop")).to_be_enabled()
    expect(page.locator("#badges .good")).to_have_text("ok")
    expect(output).to_have_text("one\n<b>two</b>\nthree\n")
    for badge in ("wall 2.", "memory", "cpu", "queue"):
        expect(page.locator("#badges")).to_contain_text(badge)
    if name := os.environ.get("DAYFLY_TEST_SCREENSHOT"):
        page.screenshot(path=name)


def test_it_can_be_used_with_keys_alone(page: Page, shared: Server) -> None:
    gone = shared.metric("dayfly_clients_gone_total")
    page.focus(EDITOR)
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    page.keyboard.type("for n in range(10**9):\npass")  # the page indents after the colon
    assert program(page) == "for n in range(10**9):\n    pass"
    page.keyboard.press("Control+Enter")
    expect(page.locator("#badges")).to_have_text("running")
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")  # no trap, and the run goes on
    assert page.evaluate("document.activeElement.id") == "runtab"
    expect(page.locator("#badges")).to_have_text("running")
    page.keyboard.press("Escape")
    expect(page.locator("#badges .bad")).to_have_text("stopped")
    wait_for(lambda: shared.metric("dayfly_clients_gone_total") == gone + 1 or None, shared)


def test_the_program_has_colours(page: Page) -> None:
    write(page, "def f():\n    return 'text'  # why")
    colours = page.evaluate(
        """() => Object.fromEntries([...document.querySelector("#code").shadowRoot.querySelectorAll(".cm-line span")]
        .map(span => [span.textContent, getComputedStyle(span).color]))"""
    )
    front = page.evaluate("getComputedStyle(document.body).color")
    assert {"def", "return", "'text'", "# why"} <= set(colours)
    assert len({colours["def"], colours["'text'"], colours["# why"], front}) == 4


def test_what_was_dropped_is_shown(page: Page) -> None:
    write(
        page,
        "import sandbox\nfor _ in range(1001): sandbox.send(1)\nfor _ in range(22): sandbox.display(1)\nprint('end')",
    )
    page.click("#run")
    expect(page.locator("#badges .good")).to_have_text("ok")
    expect(page.locator("#badges")).to_contain_text("1 message dropped")
    expect(page.locator("#badges")).to_contain_text("3 displays dropped")  # the last value is one too


def test_a_proxy_s_own_answer_is_shown_by_its_status(page: Page) -> None:
    page.route("**/v1/run/stream*", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>", content_type="text/html"))
    page.click("#run")
    expect(page.locator("#badges .bad")).to_have_text("502 Bad Gateway")
    expect(page.locator("#output")).to_contain_text("not an answer of dayfly")


def test_without_its_limits_the_page_asks_for_a_key(page: Page) -> None:
    page.route("**/v1/limits", lambda route: route.fulfill(status=503, body="busy"))
    page.reload()
    expect(page.locator("#limits")).to_contain_text("could not be read (503 Service Unavailable)")
    expect(page.locator("#key")).to_be_visible()
    write(page, "print(1)")
    page.click("#run")
    expect(page.locator("#output")).to_have_text("1\n")


def test_the_verdict_is_in_view_on_a_narrow_screen(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    page.click("#run")
    expect(page.locator("#badges .good")).to_have_text("ok")
    expect(page.locator("#badges .good")).to_be_in_viewport(ratio=1)
    page.click("#casestab")
    page.click("#run")
    expect(page.locator("#badges .bad")).to_be_in_viewport(ratio=1)


def test_stdin_data_and_limits_reach_the_program(page: Page) -> None:
    write(page, "import sandbox, sys\nprint(sys.stdin.read(), sandbox.data['x'])\nsandbox.send([1, 2])\nwhile True: pass")
    page.fill("#stdin", "typed")
    page.fill("#data", '{"x": ')
    page.click("#run")
    expect(page.locator("#badges .bad")).to_have_text("data is not valid JSON")
    page.fill("#data", '{"x": "given"}')
    page.fill("#timeout", "700")
    page.click("#run")
    expect(page.locator("#badges .bad")).to_have_text("timeout")
    expect(page.locator("#output")).to_contain_text("typed given")
    expect(page.locator("#output")).to_contain_text("sandbox.send: [1,2]")


def test_much_output_does_not_hurt_and_a_refusal_is_shown(page: Page) -> None:
    write(page, "print('x' * 3_000_000)")
    page.click("#run")
    expect(page.locator("#badges .good")).to_have_text("ok")
    expect(page.locator("#badges")).to_contain_text("stdout cut")
    expect(page.locator("#output")).to_contain_text("more than this page shows")
    write(page, " ")
    page.fill("#timeout", "20000")
    page.locator("#timeout").evaluate("field => { field.removeAttribute('max'); field.value = '99999999'; }")
    with page.expect_response("**/v1/run/stream*") as refusal:
        page.focus(EDITOR)
        page.keyboard.press("Control+Enter")
    assert refusal.value.status == 422
    expect(page.locator("#badges .bad")).to_contain_text("422")


def test_files_that_a_program_leaves_can_be_downloaded(page: Page, tmp_path: Path) -> None:
    html = "<script>document.title = 'broken out'</script>"
    write(
        page,
        f"import os; os.makedirs('out'); os.mkfifo('fifo'); open('out/bytes', 'wb').write(bytes(range(256)))\n"
        f"open('<b>.html', 'w').write({html!r}); open('\\u202egnp.exe', 'w').close()",
    )
    page.click("#run")
    expect(page.locator("#badges .good")).to_have_text("ok")
    expect(page.locator("#files li")).to_have_text(["_b_.html 46 bytes", "out/bytes 256 bytes", "_gnp.exe 0 bytes"])
    expect(page.locator("#output")).to_contain_text("fifo did not come back: not regular")
    saved = {}
    for link in page.locator("#files a").all():
        with page.expect_download() as download:
            link.click()
        saved[download.value.suggested_filename] = Path(download.value.path()).read_bytes()
    assert saved == {"_b_.html": html.encode(), "bytes": bytes(range(256)), "_gnp.exe": b""}
    # In a tab of its own, as by a middle click, it is a download too, and no page of this server.
    with page.expect_popup() as opened:
        page.evaluate("void window.open(document.querySelector('#files a').href)")
    for _ in range(100):
        if opened.value.is_closed():
            break
        page.wait_for_timeout(50)
    assert opened.value.is_closed()
    write(page, "print(1)")
    page.click("#run")
    expect(page.locator("#output")).to_have_text("1\n")
    expect(page.locator("#files li")).to_have_count(0)


def test_the_menu_has_examples_that_end_as_they_say(page: Page) -> None:
    names = page.locator("#examples option").all_text_contents()
    assert len(names) > 4
    page.select_option("#examples", "Input and data")
    page.fill("#stdin", "typed")
    page.fill("#data", "[1]")
    page.click("#run")
    expect(page.locator("#output")).to_contain_text('sandbox.send: {"received":[1]}')
    page.select_option("#examples", "An uncaught exception")
    page.click("#run")
    expect(page.locator("#badges .bad")).to_have_text("error")
    expect(page.locator("#output .stderr")).to_contain_text("ZeroDivisionError")
    page.select_option("#examples", "Out of memory")
    page.click("#run")
    expect(page.locator("#badges .bad")).to_have_text("out of memory")


SHOWN = """
import sandbox, struct, zlib
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
class Shown:
    def __init__(self, **forms):
        self.__dict__.update({name: lambda form=form: form for name, form in forms.items()})
    def __repr__(self): return "<b>" + " ".join(vars(self))
png = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 8, 0, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"\\0abc" * 2)) + chunk(b"IEND", b"")
sandbox.display(Shown(_repr_png_=b"\\x89PNG\\r\\n\\x1a\\n" + png))
svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="4"><script>document.title = "x"</script></svg>'
sandbox.display(Shown(_repr_svg_=svg))
sandbox.display(Shown(_repr_html_="<script>document.title = 'x'</script>"))
6 * 7
"""


def test_a_program_is_judged_by_cases(page: Page) -> None:
    write(page, "a, b = map(int, input().split())\nprint(a + b if a < 10 else 'no')")
    page.focus("#runtab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#casestab")).to_be_focused()
    page.click("#addcase")
    page.locator("#caselist textarea").nth(4).fill("x")
    page.click("#run")
    expect(page.locator("#badges")).to_contain_text("1 of 3 cases")
    shown = page.locator("#caselist output")
    expect(shown.nth(0)).to_contain_text("accepted")
    expect(shown.nth(1)).to_contain_text("wrong answer")
    expect(shown.nth(1)).to_contain_text("token 1: expected '42', found 'no'")
    expect(shown.nth(2)).to_contain_text("runtime error")
    expect(page.locator("#output")).to_contain_text("ValueError: invalid literal")
    write(page, "print(")
    page.click("#run")
    expect(page.locator("#badges")).to_contain_text("compile error")
    expect(page.locator("#output")).to_contain_text("SyntaxError")
    page.click("#runtab")
    expect(page.locator("#stdin")).to_be_visible()


def test_images_are_shown_and_nothing_else_of_a_display(page: Page) -> None:
    write(page, SHOWN)
    page.click("#run")
    expect(page.locator("#badges .good")).to_have_text("ok")
    images = page.locator("#figures img")
    expect(images).to_have_count(2)
    expect(images.first).to_have_attribute("alt", "<b>_repr_png_")
    assert page.evaluate("[...document.images].map(image => [image.naturalWidth, image.naturalHeight])") == [[3, 2], [9, 4]]
    expect(page.locator("#output")).to_contain_text("value: 42")
    expect(page.locator("#output")).to_contain_text("sandbox.display: <b>_repr_html_")
    assert page.title() == "dayfly"
    write(page, "print(1)")
    page.click("#run")
    expect(page.locator("#output")).to_have_text("1\n")
    expect(images).to_have_count(0)


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_it_is_accessible_at_each_width(page: Page, scheme: str, width: int) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 900})
    page.select_option("#examples", "An uncaught exception")
    page.click("#run")
    expect(page.locator("#badges .bad")).to_have_text("error")
    if folder := os.environ.get("DAYFLY_TEST_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{scheme}-{width}.png", full_page=True)
    page.evaluate(AXE)
    check_access(page)
    page.click("#casestab")
    page.click("#run")
    expect(page.locator("#badges")).to_contain_text("0 of 2 cases")
    if folder := os.environ.get("DAYFLY_TEST_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{scheme}-{width}-cases.png", full_page=True)
    check_access(page)


def check_access(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out
    found = page.evaluate("axe.run(document, {iframes: false}).then(results => results.violations)")
    assert [(violation["id"], [node["html"] for node in violation["nodes"]]) for violation in found] == []


@pytest.mark.parametrize(("scheme", "darker"), [("dark", True), ("light", False)])
def test_it_follows_the_colours_that_are_preferred(page: Page, scheme: str, darker: bool) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    red = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
    assert (int(red) < 128) == darker


def test_the_policy_forbids_what_is_not_the_page_s_own(browser: Browser, shared: Server) -> None:
    page = browser.new_page(base_url=shared.url)
    answer = page.goto("/")
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert (
        page.evaluate("(() => { try { document.body.innerHTML = '<i>x</i>'; return 'done' } catch (error) { return error.name } })()")
        == "TypeError"
    )
    assert page.evaluate("fetch('http://localhost:9/').catch(error => error.name)") == "TypeError"
    page.close()


def test_the_documentation_shows_every_route(browser: Browser, shared: Server) -> None:
    page = browser.new_page(base_url=shared.url)
    page.goto("/schema")
    for path in ("POST /compile", "POST /v1/run", "POST /v1/run/stream", "GET /healthz", "GET /readyz", "GET /metrics"):
        expect(page.locator("summary", has_text=path).first).to_be_visible()
    schema = page.locator("details").filter(has=page.locator("summary", has_text=re.compile(r"^Result\b")))
    schema.locator("summary").click()
    expect(schema.locator("code", has_text="peakMemoryBytes")).to_be_visible()
    page.close()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_documentation_is_accessible(browser: Browser, shared: Server, scheme: str) -> None:
    page = browser.new_page(base_url=shared.url, color_scheme=scheme, viewport={"width": 360, "height": 640})  # type: ignore[arg-type]
    page.goto("/schema")
    for summary in page.locator("summary").all()[:6]:
        summary.click()
    page.evaluate(AXE)
    check_access(page)
    page.close()


def test_the_page_asks_for_the_key_and_is_off_by_default(browser: Browser, serve: NewServer, tmp_path: Path) -> None:
    key = key_new("alice", tmp_path / "keys")
    server = serve("--pool-size", "1", "--playground", "--keys-file", str(tmp_path / "keys")).ready()
    page = browser.new_page(base_url=server.url)
    page.goto("/")
    expect(page.locator("#key")).to_be_visible()
    page.click("#run")
    expect(page.locator("#badges .bad")).to_contain_text("403")
    expect(page.locator("#key")).to_be_focused()
    write(page, "print('let in')")
    page.fill("#key", key)
    page.keyboard.press("Enter")
    expect(page.locator("#output")).to_have_text("let in\n")
    page.reload()
    expect(page.locator("#key")).to_have_value(key)  # in this tab
    page.close()
    with serve("--pool-size", "1").client() as client:
        assert client.get("/").status_code == 404
