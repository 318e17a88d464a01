"""The website, chapters in JupyterLab and the explorers in voila, seen by a headless Chromium.

The website builds without a warning, its links resolve, and its pages load nothing from another host.
"""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import Request, urlopen

import pytest
import torch
from PIL import Image

import vaebm
from vaebm.config import error_message
from vaebm.explore import Playground
from vaebm.explore_points import decoder, to_data, to_noise
from vaebm.widgets import as_png

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PHONE = {'width': 400, 'height': 800}
LOOK = """async () => {
    if (window.MathJax) await MathJax.startup.promise;
    const article = document.querySelector('article') || document.body, text = article.cloneNode(true);
    text.querySelectorAll('pre, code, mjx-container').forEach(e => e.remove());
    return {
        width: Math.max(...[...document.querySelectorAll('html, .content')].map(e => e.scrollWidth)),
        formulas: article.querySelectorAll('mjx-container').length,
        wrong: [...article.querySelectorAll('[data-mml-node="merror"], mjx-container [fill="red"]')]
            .map(e => e.textContent),
        raw: (text.textContent.match(/\\$\\$|\\\\[(\\[]/g) || []).length,
        broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
    };
}"""


class Page(HTMLParser):
    """What a page links to, what it loads, which anchors it has, its pictures' alternatives, and
    whether it has formulas.
    """

    def __init__(self, path):
        super().__init__()
        self.ids = set()
        self.links = []
        self.loads = []
        self.alts = {}
        self.formulas = 0
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        if 'id' in a:
            self.ids.add(a['id'])
        if tag == 'a' and 'href' in a:
            self.links.append(a['href'])
        if tag == 'link' and a.get('rel') in ('next', 'prev'):
            self.links.append(a['href'])
        if tag == 'link' and a.get('rel') in ('stylesheet', 'icon'):
            self.loads.append(a['href'])
        if tag in ('img', 'script') and 'src' in a:
            self.loads.append(a['src'])
        if tag == 'img':
            self.alts[a['src']] = a.get('alt') or ''
        self.formulas += 'math' in (a.get('class') or '').split()


def outside(address):
    return re.match(r'[a-z]+:|//', address) is not None


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The folder of the site, built as `make docs` builds it: warnings are errors."
    folder = tmp_path_factory.mktemp('site')
    done = subprocess.run(
        [sys.executable, str(ROOT / 'docs' / 'build.py'), str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / 'html'


@pytest.fixture(scope='module')
def pages(site):
    return {str(p.relative_to(site)): Page(p) for p in sorted(site.rglob('*.html'))}


def test_every_notebook_and_module_has_a_page_in_reading_order(site, pages):
    names = [
        str(p.relative_to(ROOT / 'nbs').with_suffix('.html'))
        for p in (ROOT / 'nbs').rglob('*.ipynb')
        if '.ipynb_checkpoints' not in str(p)
    ]
    names += [f'api/vaebm.{p.stem}.html' for p in (ROOT / 'vaebm').glob('*.py') if not p.stem.startswith('_')]
    assert len(names) > 50 and set(names) <= set(pages)
    order, name = [], 'index.html'
    while name:
        order.append(name)
        following = re.search(
            r'<link rel="next" title="[^"]*" href="([^"]+)"', (site / name).read_text(encoding='utf-8')
        )
        name = following and urljoin(name, following[1])
    chapters = sorted(n for n in names if n[0].isdigit())
    own = ['explorer.html', 'results.html', 'cite.html']
    assert order[1 : len(chapters) + 4] == own + chapters and set(order) >= set(names)
    assert '02 Langevin dynamics' in (site / 'index.html').read_text(encoding='utf-8')


def test_links_resolve(site, pages):
    problems = []
    for name, page in pages.items():
        for address in page.links + page.loads:
            if outside(address):
                continue
            to = urlsplit(urljoin(name, address))
            target, anchor = unquote(to.path), unquote(to.fragment)
            if not (site / target).is_file():
                problems.append((name, address, 'no such file'))
            elif anchor and anchor not in pages[target].ids:
                problems.append((name, address, 'no such anchor'))
    assert not problems


def test_pages_load_nothing_from_outside_and_are_small(site, pages):
    assert not [(name, a) for name, page in pages.items() for a in page.loads if outside(a)]
    assert not [
        p.name for p in [*site.rglob('*.html'), *(site / '_images').iterdir()] if p.stat().st_size > 3e6
    ]


def test_pictures_are_described(pages):
    alts = {(name, src): alt for name, page in pages.items() for src, alt in page.alts.items()}
    assert len(alts) > 100
    assert not [
        (key, alt)
        for key, alt in alts.items()
        if len(alt.split()) < 3 or alt.startswith('<') or alt.endswith('.png')
    ]


def text_of(path):
    return ' '.join(re.sub(r'<[^>]+>', '', path.read_text(encoding='utf-8')).split())


def test_hidden_cells_and_directives_are_gone_and_solutions_fold(site):
    for path in site.rglob('*.html'):
        assert not re.search(
            r'<span class="c1?">#\||<span class="n">nbdev_export</span>', path.read_text(encoding='utf-8')
        ), path.name
    html = (site / '01_energy.html').read_text(encoding='utf-8')
    folded = re.findall(r'<details><summary>Solution</summary>(.*?)</details>', html, re.S)
    assert len(folded) >= 2 and all('<div class="highlight' in text for text in folded)


def test_comments_behind_parameters_are_their_descriptions(site):
    samplers, training = text_of(site / 'api' / 'vaebm.samplers.html'), text_of(
        site / 'api' / 'vaebm.training.html'
    )
    for text in (
        'Exported by 03 Samplers',
        'eps – starting points, shape (B, D)',
        'step_size – eta in Eq. 2',
        'accepted – share of accepted proposals per chain, shape (B,)',
    ):
        assert text in samplers, text
    assert 'Alias for field number' not in samplers + training


@pytest.fixture(scope='module')
def browse(site, browser):
    "Open a page of the site by its path; also what it said on the console and whom it asked."

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f'http://127.0.0.1:{server.server_port}/'
    said = []
    asked = []
    tab = browser.new_context(viewport=PHONE).new_page()
    tab.on(
        'console', lambda message: said.append(message.text) if message.type in ('error', 'warning') else None
    )
    tab.on('pageerror', lambda error: said.append(str(error)))
    tab.on('request', lambda request: asked.append(request.url))

    def visit(path):
        said.clear()
        asked.clear()
        tab.goto(home + path)
        return tab, said, [url for url in asked if not url.startswith((home, 'data:'))]

    yield visit
    server.shutdown()


@pytest.mark.parametrize(
    'name', ['index', 'explorer', 'results', '10_likelihood', 'experiments/cifar10', 'api/vaebm.samplers']
)
def test_pages_do_not_scroll_sideways_beside_another_window(browse, name):
    tab, *_ = browse(f'{name}.html')
    tab.set_viewport_size({'width': 800, 'height': 800})
    width = tab.evaluate(LOOK)['width']
    tab.set_viewport_size(PHONE)
    assert width <= 800


def test_a_browser_shows_every_page_also_on_a_phone(browse, pages):
    problems, formulas = {}, 0
    for name, page in pages.items():
        tab, said, strangers = browse(name)
        seen = tab.evaluate(LOOK)
        formulas += seen['formulas']
        wrong = {
            'console': list(said),
            'other hosts': strangers,
            'too wide': seen['width'] > PHONE['width'],
            'formulas': seen['wrong'] or seen['raw'] or seen['formulas'] < page.formulas,
            'pictures': seen['broken'],
        }
        if any(wrong.values()):
            problems[name] = {k: v for k, v in wrong.items() if v}
    assert not problems and formulas > 500


def test_results_are_those_of_the_notebooks_with_their_figures(site, pages):
    def outputs(path):
        cells = json.loads((ROOT / 'nbs' / path).read_text(encoding='utf-8'))['cells']
        return [(cell['id'], o['data']) for cell in cells for o in cell.get('outputs', []) if 'data' in o]

    tables = [data['text/markdown'] for cell, data in outputs('index.ipynb') if cell in ('index029', 'index037')]
    numbers, text = re.findall(r'\d+\.\d+', ''.join(sum(tables, []))), text_of(site / 'results.html')
    assert len(numbers) > 50 and not [n for n in numbers if n not in text]
    experiments = [data for path in (ROOT / 'nbs' / 'experiments').glob('*.ipynb') for _, data in outputs(path)]
    stored = {''.join(data['text/plain']) for data in experiments if 'image/png' in data}
    shown_there = [*pages['results.html'].alts.values()]
    assert len(shown_there) >= 8 and set(shown_there) <= stored


def test_the_version_is_shown(browse):
    tab, *_ = browse('cite.html')
    assert vaebm.__version__ in tab.title()
    assert f'version {vaebm.__version__}' in tab.locator('article').inner_text()


JS_PRODUCT = """([eps, n]) => {
    const {x, energy, potential, grad} = chains.product.withGradient(Float64Array.from(eps), n);
    return [x, energy, potential, grad].map(numbers => [...numbers]);
}"""


def test_networks_in_the_browser_compute_what_the_library_computes(browse):
    model, n = vaebm.load_pretrained('25_gaussians').double(), 20
    eps = 1.5 * torch.randn(n, 22, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tab, *_ = browse('explorer.html')
    found = tab.evaluate(JS_PRODUCT, [eps.flatten().tolist(), n])
    x = model.vae.transform(eps)
    for ours, theirs in zip((x, model.energy(x), *model.value_and_grad(eps)), found):
        assert torch.allclose(ours.flatten(), torch.tensor(theirs, dtype=torch.float64), rtol=1e-4, atol=1e-4)


# Chains of one number each on U = 2 eps², the product of a standard normal base and the energy 1.5 eps².
JS_MOVE = """([name, stepSize]) => {
    const withGradient = eps => ({
        x: eps, energy: eps.map(e => 1.5 * e * e), potential: eps.map(e => 2 * e * e), grad: eps.map(e => 4 * e),
    });
    const product = {size: 1, withGradient}, random = makeRandom(0), n = 20000, eps = random.normals(n);
    let state = {...withGradient(eps), eps};
    for (let i = 0; i < 30; i++) state = MOVES[name](product, state, n, stepSize, random);
    return state.eps.reduce((sum, e) => sum + e * e, 0) / n;
}"""


@pytest.mark.parametrize('name, variance', [('Langevin', 1 / 3), ('MALA', 1 / 4), ('independence', 1 / 4)])
def test_moves_in_the_browser_have_the_right_density(browse, name, variance):
    "Langevin dynamics of step size η has the variance 1 / (4 − 4 η) here, and the others the exact one, 1 / 4."
    tab, *_ = browse('explorer.html')
    assert abs(tab.evaluate(JS_MOVE, [name, 0.25]) / variance - 1) < 0.05


def test_the_sheet_in_the_browser_is_that_of_chapter_35(browse):
    def log_density(zx):  # of the VAE: no energy
        return -0.5 * to_noise(zx, 0.1).square().sum(1) - decoder(zx[:, 0], 0.1)[1].log()

    eps = torch.randn(10, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    zx = to_data(eps, 0.1).requires_grad_()
    value = log_density(zx)
    (slope,) = torch.autograd.grad(value.sum(), zx)
    tab, *_ = browse('explorer.html')
    found = tab.evaluate(
        """points => points.map(p => {
            const there = sheet.toData(p, .1);
            return [...there, sheet.logData(there, .1), ...sheet.slopeData(there, .1)];
        })""",
        eps.tolist(),
    )
    expected = torch.cat([zx, value[:, None], slope], 1).detach()
    assert torch.allclose(torch.tensor(found, dtype=torch.float64), expected, atol=1e-6)


KEYS = {'BUTTON': 'Enter', 'INPUT': 'ArrowRight', 'SELECT': 'ArrowDown'}


def words(explorer):
    return explorer.locator('output, [role=status]').all_inner_texts()


def press_and_see(tab, explorer):
    "Press the key of the control that has the focus, and wait until an output or the sentence changes."
    before = words(explorer)
    tab.keyboard.press(KEYS[tab.evaluate('document.activeElement.tagName')])
    wait_until(lambda: words(explorer) != before, f'nothing changes: {before}')


def test_explorers_in_the_browser_answer_to_the_keyboard_and_ask_no_other_host(browse):
    tab, said, _ = browse('explorer.html')
    asked = []
    tab.on('request', lambda request: asked.append(request.url))
    for explorer in tab.locator('.explorer').all():
        controls = explorer.locator('select, input, button').all()
        controls[0].focus()
        for control in controls:
            assert control.evaluate('c => c == document.activeElement')
            assert control.evaluate('c => (c.labels[0] || c).textContent.trim()')
            press_and_see(tab, explorer)
            if control.get_attribute('name') == 'run':
                tab.keyboard.press('Enter')  # pause
            tab.keyboard.press('Tab')
    assert not said and not [url for url in asked if not url.startswith((urljoin(tab.url, '.'), 'data:'))]


def test_text_of_the_explorers_can_be_read_and_their_files_are_small(browse, site):
    tab, *_ = browse('explorer.html')
    sizes = tab.locator('article *').evaluate_all(
        'all => all.filter(e => e.textContent.trim()).map(e => parseFloat(getComputedStyle(e).fontSize))'
    )
    assert len(sizes) > 100 and min(sizes) >= 12
    canvases = tab.locator('canvas').evaluate_all('all => all.map(c => c.getAttribute("aria-label"))')
    assert len(canvases) == 5 and all(len(label) > 30 for label in canvases)
    assert sum(path.stat().st_size for path in (site / 'explorer').iterdir()) < 2e6


def is_folded(cell):
    "Folded cells are, and are shown: the site leaves out what is marked `#| hide`."
    hidden = cell['source'] and cell['source'][0].startswith('#| hide')
    folded = cell['metadata'].get('jupyter', {}).get('source_hidden', False)
    return not hidden and (folded or 'hide-input' in cell['metadata'].get('tags', []))


def test_cells_folded_in_notebooks_are_folded_on_the_site(site):
    for path in (ROOT / 'nbs').glob('*.ipynb'):
        wanted = sum(is_folded(cell) for cell in json.loads(path.read_text(encoding='utf-8'))['cells'])
        assert (site / f'{path.stem}.html').read_text(encoding='utf-8').count(
            'tag_hide-input'
        ) == wanted, path.stem
        assert wanted or path.stem not in ('index', '36_explore')


def test_code_of_folded_cells_is_shown_on_demand_and_their_output_always(browse):
    tab, *_ = browse('index.html')
    cell = tab.locator('div.cell.tag_hide-input:has(.cell_output table)').first
    code = cell.locator('.cell_input pre')
    assert cell.locator('table').is_visible() and not code.is_visible()
    cell.locator('summary').click()
    assert code.is_visible()


def test_search_finds_the_replay_buffer_in_its_chapter(browse):
    tab, said, _ = browse('index.html')
    tab.set_viewport_size({'width': 1300, 'height': 900})
    tab.fill('input[name=q]', 'replay buffer')
    tab.press('input[name=q]', 'Enter')
    found = tab.locator('#search-results li a', has_text='03 Samplers').first
    found.click()
    assert '/03_samplers.html' in tab.url and tab.locator('article :text("replay buffer")').count() and not said


SETTINGS = {
    'apputils-extension/notification': {'fetchNews': 'false', 'checkForUpdates': False},
    'notebook-extension/tracker': {'windowingMode': 'none'},
}
WAIT_S = 180  # for a page to run on a busy machine


def open_page(browser):
    page = browser.new_page(viewport={'width': 1280, 'height': 900})
    page.set_default_timeout(1000 * WAIT_S)
    return page


@pytest.fixture(scope='module')
def page(browser):
    return open_page(browser)


@contextmanager
def served(copy, *command):
    """The address of a Jupyter application that runs in the copy, with its library and settings of
    its own.
    """
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    own = {f'JUPYTER_{name}_DIR': str(copy / '.jupyter' / name) for name in ('CONFIG', 'DATA', 'RUNTIME')} | {
        'JUPYTERLAB_SETTINGS_DIR': str(copy / '.jupyter' / 'settings')
    }
    for name, values in SETTINGS.items():
        file = copy / '.jupyter' / 'settings' / '@jupyterlab' / f'{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    env = os.environ | own | {'PYTHONPATH': str(copy), 'OMP_NUM_THREADS': '1'}
    with open(copy / '.jupyter' / 'log', 'w') as log:
        server = subprocess.Popen(
            [sys.executable, '-m', *command, f'--port={port}', '--no-browser'],
            cwd=copy,
            env=env,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until(
                lambda: answers(f'http://127.0.0.1:{port}/static/favicon.ico') or server.poll() is not None,
                'the server does not start',
            )
            assert server.poll() is None, Path(log.name).read_text()
            yield f'http://127.0.0.1:{port}'
        finally:
            server.terminate()
            server.wait(30)


def answers(address):
    try:
        urlopen(address, timeout=5).close()
    except URLError as error:
        return hasattr(error, 'code')  # refused by a server that is there
    except OSError:
        return False
    return True


def within(seconds, condition):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.3)
    return True


def wait_until(condition, problem):
    assert within(WAIT_S, condition), problem() if callable(problem) else problem


@pytest.fixture(scope='module')
def lab(copy):
    with served(
        copy,
        'jupyterlab',
        f'--ServerApp.root_dir={copy / "nbs"}',
        '--ServerApp.token=',
        '--ServerApp.disable_check_xsrf=True',
        '--ServerApp.ip=127.0.0.1',
        '--allow-root',
        '--LabApp.collaborative=False',
    ) as address:
        yield address


def run_all(page, lab, name):
    "Open a notebook, run all of its cells from the menu, and return the errors that it shows."
    urlopen(
        Request(
            f'{lab}/api/sessions',
            json.dumps(
                {'path': name, 'name': name, 'type': 'notebook', 'kernel': {'name': 'python3'}}
            ).encode(),
            {'Content-Type': 'application/json'},
        )
    ).close()
    page.goto(
        f'{lab}/lab/tree/{name}?reset'
    )  # the session is there already: a notebook that starts its own loses an early "Run All"; nothing else is open
    page.wait_for_selector('.jp-Notebook .jp-CodeCell')
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state='attached')

    def prompts():
        return [
            p.strip('[]:\n ') for p in page.locator('.jp-CodeCell .jp-InputPrompt').all_text_contents() if p
        ]  # a folded cell has none

    for _ in range(3):  # on a busy machine a click may come to nothing
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        if within(20, lambda: any(prompts())):
            break
    wait_until(lambda: all(p.isdigit() for p in prompts()), lambda: f'{name} does not finish: {prompts()}')
    return page.locator('[data-mime-type="application/vnd.jupyter.error"]').all_inner_texts()


EXPLORERS = '.widget-vbox:has(> .widget-html)'


def shown(explorer):
    return explorer.locator('.widget-html').inner_html()  # the picture with its sentence, or a refusal


def press(page, explorer, control, key):
    """Put the focus on a control, press a key, and wait for something else to be shown.

    The control must keep the focus.
    """
    before = shown(explorer)
    control.focus()
    page.keyboard.press(key)
    wait_until(lambda: shown(explorer) != before, f'{key} changes nothing of: {before[-300:]}')
    assert control.evaluate('element => element === document.activeElement')


CONTROLS = '.noUi-handle, button'


def every_control_by_keyboard(page, explorer):
    """Move each slider, choose another word in each row, and press the buttons that step.

    Returns how many stops the Tab key should make.
    """
    for slider in explorer.locator('.noUi-handle').all():
        now, high = (float(slider.get_attribute(f'aria-value{k}')) for k in ('now', 'max'))
        press(page, explorer, slider, 'ArrowRight' if now < high else 'ArrowLeft')
    for row in explorer.locator('.widget-toggle-buttons').all():
        press(page, explorer, row.locator('button:not(.mod-active)').first.element_handle(), 'Enter')
    for name in ('step', '10 steps'):
        for button in explorer.get_by_role('button', name=name, exact=True).all():
            press(page, explorer, button, 'Enter')
    return explorer.locator(CONTROLS).count()


def reached_by_tab(page, explorer, n):
    "How many of an explorer's controls the Tab key visits, from the first one on."
    explorer.locator(CONTROLS).first.focus()
    seen = set()
    for _ in range(3 * n):  # some have a second stop at their value
        seen.add(
            explorer.evaluate(
                "(explorer, selector) =>"
                " [...explorer.querySelectorAll(selector)].indexOf(document.activeElement)",
                CONTROLS,
            )
        )
        page.keyboard.press('Tab')
    return len(seen - {-1})


def test_explorers_in_jupyterlab(page, lab):
    assert not run_all(page, lab, '36_explore.ipynb')
    explorers = page.locator(EXPLORERS)
    assert explorers.count() == 6 and all(
        len(img.get_attribute('alt')) > 30 for img in explorers.locator('img').all()
    )
    for explorer in explorers.all():
        n = every_control_by_keyboard(page, explorer)
        assert n and reached_by_tab(page, explorer, n) == n
        labels = explorer.locator(
            '.widget-box .widget-label'
        ).all_inner_texts()  # of the controls; the picture has none
        assert labels and all(labels)


@pytest.mark.parametrize('name', ['00_data', '01_energy'])
def test_chapter_runs_in_jupyterlab(page, lab, name):
    assert not run_all(page, lab, f'{name}.ipynb') and page.locator('.jp-RenderedImage img').count() >= 3


@pytest.fixture(scope='module')
def app(browser, copy):
    "The explorers as `make explore` opens them."
    page = open_page(browser)
    (command,) = re.findall(r'^explore:.*\n\t\$\(BIN\)/(voila .*)$', (ROOT / 'Makefile').read_text(), re.M)
    with served(copy, *shlex.split(command), '--Voila.ip=127.0.0.1') as address:
        page.goto(address)
        wait_until(lambda: page.locator(EXPLORERS).count() == 6, 'voila does not show all explorers')
        page.locator(f'{EXPLORERS} img').last.wait_for()
        yield page


def test_the_application_is_explorers_and_their_prose(app):
    text = app.locator('body').inner_text()
    assert app.locator('.jp-InputArea-editor').count() == 0  # no code
    assert not any(word in text for word in ('There was an error', 'not yet', 'ms per redraw', 'Traceback'))
    titles = app.get_by_role('heading').all_inner_texts()
    assert len(titles) > 8 and not any('Exercises' in title for title in titles)
    assert app.locator('.jp-OutputArea-output').count() == 6, 'an output that is no explorer'


def test_a_control_of_the_application_changes_its_picture(app):
    chains = app.locator(EXPLORERS).nth(3)
    press(app, chains, chains.locator('.noUi-handle'), 'ArrowRight')


def upload(page, explorer, name, content):
    "Choose a file by keyboard and the browser's dialog; returns what the explorer then says."
    before = shown(explorer)
    with page.expect_file_chooser() as chooser:
        explorer.locator('.widget-upload').press('Enter')
    chooser.value.set_files({'name': name, 'mimeType': 'image/png', 'buffer': content})
    wait_until(lambda: shown(explorer) != before, f'{name} changes nothing')
    return explorer.locator('figcaption, [role=alert]').inner_text()


def test_an_uploaded_image_is_scored_and_another_file_refused(app):
    explorer = app.locator(EXPLORERS).last
    image = as_png(Image.radial_gradient('L'))
    junk = b'no image'

    def said(content):
        return play.move('your image', 1, content)

    press(app, explorer, explorer.get_by_role('button', name='your image').element_handle(), 'Enter')
    torch.set_num_threads(1)  # as the application has: sums must be equal
    play = Playground()
    expected = said(image)
    assert upload(app, explorer, 'gradient.png', image) == expected and expected.startswith(
        'Your image: bound on log p'
    )
    assert upload(app, explorer, 'junk.png', junk) == error_message(ValueError, said, junk)
    assert 'Traceback' not in app.locator('body').inner_text()
