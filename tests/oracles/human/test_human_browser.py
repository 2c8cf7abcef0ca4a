"""The page on which people judge, in headless Chromium."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from oracles.human.verdict_store import VerdictStore
from runners.duel import main
from runners.run.record import read_lines
from tests.oracles.human.scripted import free_port
from tests.paths import ROOT

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs Chromium and its driver: apt-get install chromium chromium-driver"
    ),
]
RESPONSES = [
    "plain",
    "<script>document.title = 'broken'; window.broken = 1</script>",
    '<img src=x onerror="window.broken = 1">',
    "<b onmouseover='window.broken = 1'>bold</b> &amp; plain",
    "two\n  lines",
]
"""Ten pairs."""
PARTS = ["--task", "game.json", "--policy", "tabular", "--policy.exact", "--run.steps", "1", "--run.batch_size", "1"]
KEYS = "1", "2", "0"
SIDES = {"1": "left", "2": "right", "0": "tie"}


class Page:
    """One person's window of a browser.

    Args:
        browser: the driver.
        address: of the page.
        person: the name for the door; None: the door is closed after a reload.
    """

    def __init__(self, browser, address, person):
        self.browser, self.seen = browser, {}
        browser.switch_to.new_window("window")
        self.window = browser.current_window_handle
        browser.get(address)
        self.wait(lambda page: page.find_element(By.ID, "name").is_displayed())
        browser.find_element(By.ID, "name").send_keys(person + Keys.ENTER)
        self.question()

    def here(self):
        self.browser.switch_to.window(self.window)
        return self.browser

    def wait(self, condition):
        return WebDriverWait(self.here(), 60, poll_frequency=0.05).until(condition)

    def number(self):
        return self.here().execute_script("return document.body.dataset.question || ''")

    def question(self):
        """The number of the question that is shown, and its two texts as they are shown."""
        self.wait(lambda page: self.number())
        texts = [
            self.here().execute_script(f"return document.getElementById('{side}').textContent")
            for side in ("left", "right")
        ]
        return self.number(), *texts

    def press(self, key):
        self.here().find_element(By.TAG_NAME, "body").send_keys(key)

    def judge(self, key):
        """Presses the key of a verdict and waits until the question has gone."""
        number, left, right = self.question()
        self.press(key)
        self.wait(lambda page: self.number() != number)
        self.seen[number] = (left, right, SIDES[key])


@pytest.fixture
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def start(tmp_path):
    """Starts or resumes a run of one step on all pairs; ends it by kill -9 or waits for its end."""
    (tmp_path / "game.json").write_text(json.dumps({"prompts": ["<i>prompt</i>"], "responses": RESPONSES}))

    @contextmanager
    def run(*words):
        command = [sys.executable, "-m", "runners.duel", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()

    return run


def test_ten_verdicts_survive_undo_reload_two_people_and_a_kill(browser, start, tmp_path):
    port = free_port()
    begin = [*PARTS, "--oracle", "human", "--run.dir", "run", "--oracle.port", str(port), "--oracle.patience", "600"]
    with start(*begin) as process:
        wait_for_page(process)
        ann = Page(browser, f"http://127.0.0.1:{port}/", "Ann")
        bob = Page(browser, f"http://127.0.0.1:{port}/", "Bob")
        assert ann.number() != bob.number()
        for key in KEYS:
            ann.judge(key)
        undone = list(ann.seen)[-1]
        ann.press("u")
        ann.wait(lambda page: ann.number() == undone)
        ann.judge("2")
        bob.judge("1")
        before = ann.question()
        ann.here().refresh()
        assert ann.question() == before, "a reload shows the same question, and asks for no name"
        both = ann.question(), bob.question()
    with start("--resume", "run") as process:
        wait_for_page(process)
        assert (ann.question(), bob.question()) == both
        for page, key in ((ann, "1"), (bob, "2"), (ann, "0"), (bob, "1"), (ann, "2")):
            page.judge(key)
        ann_or_bob = ann if ann.number() else bob
        ann_or_bob.judge("1")
        for page in (ann, bob):
            assert page.here().execute_script("return window.broken") is None
            assert page.here().title != "broken"
        assert process.wait(timeout=120) == 0
    assert not set(ann.seen) & set(bob.seen)
    store = VerdictStore(tmp_path / "run/verdicts.sqlite")
    verdicts = store.verdicts()
    store.close()
    assert len({tuple(sorted((one.left, one.right))) for one in verdicts}) == len(verdicts) == 10
    kept = sorted((one.person, one.left, one.right, one.winner) for one in verdicts)
    seen = [(name, *one) for name, page in (("Ann", ann), ("Bob", bob)) for one in page.seen.values()]
    assert kept == sorted(seen), "each text is shown as it is, and each key counts for what stood beside it"
    assert_the_run_on_a_table_is_the_same(verdicts, tmp_path)


def wait_for_page(process):
    for line in process.stdout:
        if line.startswith("page:"):
            return
    raise AssertionError("the run has ended before it served the page")


def assert_the_run_on_a_table_is_the_same(verdicts, folder):
    prob = [[0.5] * len(RESPONSES) for _ in RESPONSES]
    for one in verdicts:
        left, right = RESPONSES.index(one.left), RESPONSES.index(one.right)
        prob[left][right] = {"left": 1.0, "right": 0.0, "tie": 0.5}[one.winner]
        prob[right][left] = 1 - prob[left][right]
    (folder / "table.json").write_text(json.dumps({"prompts": ["<i>prompt</i>"], "responses": RESPONSES, "prob": prob}))
    parts = [str(folder / "table.json") if word == "game.json" else word for word in PARTS]
    assert main([*parts, "--oracle", "table", "--run.eval_every", "0", "--run.dir", str(folder / "table")]) == 0
    runs = [read_lines(folder / name / "metrics.jsonl") for name in ("run", "table")]
    for lines in runs:
        for line in lines:
            for tag in [tag for tag in line if tag == "wall_time" or tag.startswith("time/")]:
                del line[tag]
    assert runs[0] == runs[1]
    assert len(runs[0]) == 1
