"""Chapters in a real JupyterLab, and the explorers in voila, driven by the keyboard of a headless Chromium."""
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

CHROMIUM = shutil.which('chromium')
try: from playwright.sync_api import sync_playwright
except ImportError: sync_playwright = None

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason='needs chromium'), pytest.mark.skipif(sync_playwright is None, reason='needs playwright')]

FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
SETTINGS = {'apputils-extension/notification': {'fetchNews': 'false', 'checkForUpdates': False}, 'notebook-extension/tracker': {'windowingMode': 'none'}}
WAIT_S = 120   # for a page to run on a busy machine


@pytest.fixture(scope='module')
def page():
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={'width': 1280, 'height': 900})
        page.set_default_timeout(1000 * WAIT_S)
        yield page
        browser.close()


@contextmanager
def served(copy, *command):
    "The address of a Jupyter application that runs on the copy's notebooks and library, with settings of its own."
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    own = {f'JUPYTER_{name}_DIR': str(copy / '.jupyter' / name) for name in ('CONFIG', 'DATA', 'RUNTIME')} | {'JUPYTERLAB_SETTINGS_DIR': str(copy / '.jupyter' / 'settings')}
    for name, values in SETTINGS.items():
        file = copy / '.jupyter' / 'settings' / '@jupyterlab' / f'{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    env = os.environ | own | {'PYTHONPATH': str(copy), 'OMP_NUM_THREADS': '1'}
    with open(copy / '.jupyter' / 'log', 'w') as log:
        server = subprocess.Popen([sys.executable, '-m', *command, f'--port={port}', '--no-browser'], cwd=copy / 'nbs', env=env, stdout=log, stderr=log)
        try:
            wait_until(lambda: answers(f'http://127.0.0.1:{port}/static/favicon.ico') or server.poll() is not None, 'the server does not start')
            assert server.poll() is None, Path(log.name).read_text()
            yield f'http://127.0.0.1:{port}'
        finally:
            server.terminate()
            server.wait(30)


def answers(address):
    try: urlopen(address, timeout=5).close()
    except URLError as error: return hasattr(error, 'code')   # refused by a server that is there
    except OSError: return False
    return True


def wait_until(condition, problem):
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, problem() if callable(problem) else problem
        time.sleep(.3)


@pytest.fixture(scope='module')
def lab(copy):
    with served(copy, 'jupyterlab', '--ServerApp.token=', '--ServerApp.disable_check_xsrf=True', '--ServerApp.ip=127.0.0.1', '--allow-root', '--LabApp.collaborative=False') as address: yield address


def run_all(page, lab, name):
    "Open a notebook, run all of its cells from the menu, and return the errors that it shows."
    urlopen(Request(f'{lab}/api/sessions', json.dumps({'path': name, 'name': name, 'type': 'notebook', 'kernel': {'name': 'python3'}}).encode(), {'Content-Type': 'application/json'})).close()
    page.goto(f'{lab}/lab/tree/{name}?reset')   # the session is there already: a notebook that starts its own loses an early "Run All"; nothing else is open
    page.wait_for_selector('.jp-Notebook .jp-CodeCell')
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state='attached')
    page.get_by_role('menuitem', name='Run', exact=True).click()
    page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
    prompts = page.locator('.jp-CodeCell .jp-InputPrompt:not(.jp-Placeholder-prompt)')   # a folded cell shows none
    wait_until(lambda: all(p.strip('[]:\n ').isdigit() for p in prompts.all_inner_texts()), lambda: f'{name} does not finish: {prompts.all_inner_texts()}')
    return page.locator('[data-mime-type="application/vnd.jupyter.error"]').all_inner_texts()


EXPLORERS = '.widget-vbox:has(> .widget-html)'


def shown(explorer): return explorer.locator('.widget-html').inner_html()   # the picture with its sentence, or a refusal


def press(page, explorer, control, key):
    "Put the focus on a control, press a key, and wait for something else to be shown; the control must keep the focus."
    before = shown(explorer)
    control.focus()
    page.keyboard.press(key)
    wait_until(lambda: shown(explorer) != before, f'{key} changes nothing of: {before[-300:]}')
    assert control.evaluate('element => element === document.activeElement')


CONTROLS = '.noUi-handle, button'


def every_control_by_keyboard(page, explorer):
    "Move each slider, choose another word in each row, and press the buttons that step; returns how many stops the Tab key should make."
    for slider in explorer.locator('.noUi-handle').all():
        now, high = (float(slider.get_attribute(f'aria-value{k}')) for k in ('now', 'max'))
        press(page, explorer, slider, 'ArrowRight' if now < high else 'ArrowLeft')
    for row in explorer.locator('.widget-toggle-buttons').all(): press(page, explorer, row.locator('button:not(.mod-active)').first.element_handle(), 'Enter')
    for name in ('step', '10 steps'):
        for button in explorer.get_by_role('button', name=name, exact=True).all(): press(page, explorer, button, 'Enter')
    return explorer.locator(CONTROLS).count()


def reached_by_tab(page, explorer, n):
    "How many of an explorer's controls the Tab key visits, from the first one on."
    explorer.locator(CONTROLS).first.focus()
    seen = set()
    for _ in range(3 * n):   # some have a second stop at their value
        seen.add(explorer.evaluate("(explorer, selector) => [...explorer.querySelectorAll(selector)].indexOf(document.activeElement)", CONTROLS))
        page.keyboard.press('Tab')
    return len(seen - {-1})


def test_explorers_in_jupyterlab(page, lab):
    assert not run_all(page, lab, '15_explore.ipynb')
    explorers = page.locator(EXPLORERS)
    assert explorers.count() == 7 and all(len(img.get_attribute('alt')) > 30 for img in explorers.locator('img').all())
    for explorer in explorers.all():
        n = every_control_by_keyboard(page, explorer)
        assert n and reached_by_tab(page, explorer, n) == n
        labels = explorer.locator('.widget-box .widget-label').all_inner_texts()   # of the controls; the picture has none
        assert labels and all(labels)


@pytest.mark.parametrize('name', ['00_data', '01_energy'])
def test_chapter_runs_in_jupyterlab(page, lab, name):
    assert not run_all(page, lab, f'{name}.ipynb') and page.locator('.jp-RenderedImage img').count() >= 3


def test_explorers_in_voila(page, copy):
    with served(copy, 'voila', '15_explore.ipynb', '--Voila.ip=127.0.0.1') as address:
        page.goto(address)
        explorers = page.locator(EXPLORERS)
        wait_until(lambda: explorers.count() == 7, 'voila does not show all explorers')
        chains = explorers.nth(4)
        press(page, chains, chains.locator('.noUi-handle'), 'ArrowRight')
        assert page.locator('.jp-InputArea-editor').count() == 0   # no code
        assert not page.get_by_text('There was an error').count()
