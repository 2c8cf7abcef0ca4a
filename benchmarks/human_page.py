"""`python -m benchmarks.human_page`: writes docs/images/human.png, a picture of the page on which people judge."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from oracles.human.verdict_server import PageServer
from oracles.human.verdict_store import VerdictStore

QUESTIONS = [
    (
        "How do I keep bread fresh for longer?",
        "Keep the loaf in a paper bag inside a bread bin, cut side down. Freeze what you won't eat within two days, "
        "sliced, and toast the slices straight from the freezer.",
        "Bread stays fresh in the fridge.\n\nCold air is good for most foods, so bread lasts a week there. You can "
        "also put it into a plastic bag to keep the crust crisp.",
    ),
    *((f"Question {i}", "one", "two") for i in range(11)),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the picture; returns 0."""
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    parser = argparse.ArgumentParser(prog="python -m benchmarks.human_page")
    parser.add_argument("out", type=Path, nargs="?", default=Path("docs/images/human.png"))
    parser.add_argument("--dark", action="store_true", help="in dark colours")
    options = parser.parse_args(arguments)
    chrome = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1200,780", "--hide-scrollbars"):
        chrome.add_argument(argument)
    with tempfile.TemporaryDirectory() as folder:
        store = VerdictStore(Path(folder) / "verdicts.sqlite")
        store.ask(QUESTIONS[1:])
        for _ in range(4):
            shown = store.question("Ann")
            assert shown is not None
            store.answer("Ann", shown.number, "left")
        store.ask([*QUESTIONS[1:5], QUESTIONS[0], *QUESTIONS[5:]])
        server = PageServer(store, "127.0.0.1", 0, planned=120)
        browser = webdriver.Chrome(options=chrome, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            if options.dark:
                colours = [{"name": "prefers-color-scheme", "value": "dark"}]
                browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": colours})
            browser.get(server.address)
            browser.find_element(By.ID, "name").send_keys("Ann\n")
            WebDriverWait(browser, 10).until(lambda page: page.find_element(By.ID, "left").is_displayed())
            browser.save_screenshot(str(options.out))
        finally:
            browser.quit()
            server.close()
            store.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
