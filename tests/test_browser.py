"""Chapters in a real JupyterLab, and the explorers in voila, driven by the keyboard of a headless Chromium."""
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
import torch
from PIL import Image

from vaebm.explore import Playground, as_png
from vaebm.runs import message

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

SETTINGS = {'apputils-extension/notification': {'fetchNews': 'false', 'checkForUpdates': False}, 'notebook-extension/tracker': {'windowingMode': 'none'}}
WAIT_S = 180   # for a page to run on a busy machine


def open_page(browser):
    page = browser.new_page(viewport={'width': 1280, 'height': 900})
    page.set_default_timeout(1000 * WAIT_S)
    return page


@pytest.fixture(scope='module')
def page(browser): return open_page(browser)


@contextmanager
def served(copy, *command):
    "The address of a Jupyter application that runs in the copy, with its library and settings of its own."
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    own = {f'JUPYTER_{name}_DIR': str(copy / '.jupyter' / name) for name in ('CONFIG', 'DATA', 'RUNTIME')} | {'JUPYTERLAB_SETTINGS_DIR': str(copy / '.jupyter' / 'settings')}
    for name, values in SETTINGS.items():
        file = copy / '.jupyter' / 'settings' / '@jupyterlab' / f'{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    env = os.environ | own | {'PYTHONPATH': str(copy), 'OMP_NUM_THREADS': '1'}
    with open(copy / '.jupyter' / 'log', 'w') as log:
        server = subprocess.Popen([sys.executable, '-m', *command, f'--port={port}', '--no-browser'], cwd=copy, env=env, stdout=log, stderr=log)
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


def within(seconds, condition):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end: return False
        time.sleep(.3)
    return True


def wait_until(condition, problem): assert within(WAIT_S, condition), problem() if callable(problem) else problem


@pytest.fixture(scope='module')
def lab(copy):
    with served(copy, 'jupyterlab', f'--ServerApp.root_dir={copy / "nbs"}', '--ServerApp.token=', '--ServerApp.disable_check_xsrf=True', '--ServerApp.ip=127.0.0.1', '--allow-root', '--LabApp.collaborative=False') as address: yield address


def run_all(page, lab, name):
    "Open a notebook, run all of its cells from the menu, and return the errors that it shows."
    urlopen(Request(f'{lab}/api/sessions', json.dumps({'path': name, 'name': name, 'type': 'notebook', 'kernel': {'name': 'python3'}}).encode(), {'Content-Type': 'application/json'})).close()
    page.goto(f'{lab}/lab/tree/{name}?reset')   # the session is there already: a notebook that starts its own loses an early "Run All"; nothing else is open
    page.wait_for_selector('.jp-Notebook .jp-CodeCell')
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state='attached')
    prompts = lambda: [p.strip('[]:\n ') for p in page.locator('.jp-CodeCell .jp-InputPrompt').all_text_contents() if p]   # a folded cell has none
    for _ in range(3):   # on a busy machine a click may come to nothing
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        if within(20, lambda: any(prompts())): break
    wait_until(lambda: all(p.isdigit() for p in prompts()), lambda: f'{name} does not finish: {prompts()}')
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


@pytest.fixture(scope='module')
def app(browser, copy):
    "The explorers as `make explore` opens them."
    page = open_page(browser)
    command, = re.findall(r'^explore:.*\n\t\$\(BIN\)/(voila .*)$', (ROOT / 'Makefile').read_text(), re.M)
    with served(copy, *shlex.split(command), '--Voila.ip=127.0.0.1') as address:
        page.goto(address)
        wait_until(lambda: page.locator(EXPLORERS).count() == 7, 'voila does not show all explorers')
        page.locator(f'{EXPLORERS} img').last.wait_for()
        yield page


def test_the_application_is_explorers_and_their_prose(app):
    text = app.locator('body').inner_text()
    assert app.locator('.jp-InputArea-editor').count() == 0   # no code
    assert not any(word in text for word in ('There was an error', 'not yet', 'ms per redraw', 'Traceback'))
    titles = app.get_by_role('heading').all_inner_texts()
    assert len(titles) > 8 and not any('Exercises' in title for title in titles)
    assert app.locator('.jp-OutputArea-output').count() == 7, 'an output that is no explorer'


def test_a_control_of_the_application_changes_its_picture(app):
    chains = app.locator(EXPLORERS).nth(4)
    press(app, chains, chains.locator('.noUi-handle'), 'ArrowRight')


def upload(page, explorer, name, content):
    "Choose a file by keyboard and the browser's dialog; returns what the explorer then says."
    before = shown(explorer)
    with page.expect_file_chooser() as chooser: explorer.locator('.widget-upload').press('Enter')
    chooser.value.set_files({'name': name, 'mimeType': 'image/png', 'buffer': content})
    wait_until(lambda: shown(explorer) != before, f'{name} changes nothing')
    return explorer.locator('figcaption, [role=alert]').inner_text()


def test_an_uploaded_image_is_scored_and_another_file_refused(app):
    explorer, image, junk = app.locator(EXPLORERS).last, as_png(Image.radial_gradient('L')), b'no image'
    said = lambda content: play.move('your image', 1, content)
    press(app, explorer, explorer.get_by_role('button', name='your image').element_handle(), 'Enter')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)   # as the application has: sums must be equal
    try: play = Playground(); expected = said(image)
    finally: torch.set_num_threads(threads)
    assert upload(app, explorer, 'gradient.png', image) == expected and expected.startswith('Your image: bound on log p')
    assert upload(app, explorer, 'junk.png', junk) == message(ValueError, said, junk)
    assert 'Traceback' not in app.locator('body').inner_text()
