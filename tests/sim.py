"""A device that there is not: tensors on `sim` keep their numbers on the CPU and refuse, as a GPU
does, to meet tensors and generators of the CPU.

`counted` says what a GPU would have had to do.
"""

from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class _Module(_DummyBackendModule):
    active = False  # outside of `device` there is none, so that other tests run as before

    def is_available(self):
        return self.active

    def device_count(self):
        return 0

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


_MODULE = _Module()
_setup_privateuseone_for_python_backend('sim', _MODULE)
SIM = torch.device('sim:0')
_CPU_GENERATOR = torch.Generator


class Count:
    """Operations that a GPU would start (views and bare memory start none), and what the program
    would wait for, by name.
    """

    def __init__(self):
        self.launches, self.waits = Counter(), Counter()


_counts = []  # of the `counted` blocks that are open
_READ = {
    '_local_scalar_dense',
    'is_nonzero',
    'nonzero',
    'equal',
    'masked_select',
}  # the program needs their result
_BARE = {
    'empty',
    'empty_like',
    'empty_strided',
    'new_empty',
    'new_empty_strided',
    '_unsafe_view',
    '_reshape_alias',
}


@contextmanager
def counted():
    "Count what happens inside."
    count = Count()
    _counts.append(count)
    try:
        yield count
    finally:
        _counts.remove(count)


def _count(func, name, args, kwargs, here):
    views = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
    given = args[0] if args else None
    mask = name == 'index' and any(x is not None and x.dtype == torch.bool for x in args[1])
    crosses = name == 'copy_' and isinstance(args[0], Tensor) != isinstance(args[1], Tensor)
    if name == '_to_copy' and kwargs.get('device') is not None:
        crosses = _is_sim(kwargs['device']) != isinstance(given, Tensor)
    for count in _counts:
        if here and not views and name not in _BARE:
            count.launches[name] += 1
        if name in _READ or mask or crosses and not kwargs.get('non_blocking'):
            count.waits[name] += 1


def _is_sim(device) -> bool:
    return torch.device(device).type == 'sim'


class Tensor(torch.Tensor):
    "A tensor on the device; `inner` holds its numbers."

    @staticmethod
    def __new__(cls, inner):
        shape = {'strides': inner.stride(), 'storage_offset': inner.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=SIM, **shape)

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f'sim tensor of shape {tuple(self.shape)}'

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})


def _tensors(tree) -> list:
    return [x for x in tree_flatten(tree)[0] if isinstance(x, torch.Tensor)]


def _check_devices(name, args, kwargs):
    "Numbers may come from the CPU, and indices into what is on the device; nothing else may."
    indexed = name in ('index', 'index_put', 'index_put_', '_index_put_impl_') and isinstance(args[0], Tensor)
    tensors = _tensors((args[0], args[2:], kwargs) if indexed else (args, kwargs))
    if len({isinstance(x, Tensor) for x in tensors if x.dim()}) > 1:
        raise RuntimeError(f'Expected all tensors to be on the same device, found sim and cpu, in {name}')


def _compute(func, args, kwargs):
    "Do on the inner tensors what `func` does, and wrap what is new."
    name = func.overloadpacket.__name__
    given = _tensors((args, kwargs))
    device = kwargs.get('device')
    here = any(isinstance(x, Tensor) for x in given) if device is None else _is_sim(device)
    if name not in ('copy_', '_to_copy'):
        _check_devices(name, args, kwargs)
    if name == 'copy_':
        here = isinstance(args[0], Tensor)
    if _counts and (here or any(isinstance(x, Tensor) for x in given)):
        _count(func, name, args, kwargs, here)
    if device is not None and _is_sim(device):
        kwargs = kwargs | {'device': torch.device('cpu')}
    known = {id(x.inner): x for x in given if isinstance(x, Tensor)}
    out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if not here:
        return out

    def wrap(x):
        return known[id(x)] if id(x) in known else Tensor(x) if isinstance(x, torch.Tensor) else x

    return tree_map(wrap, out)


def _inner(x):
    return x.inner if isinstance(x, Tensor) else x


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})


class Generator(_CPU_GENERATOR):
    "A generator that remembers its device."

    def __new__(cls, device='cpu'):
        self = _CPU_GENERATOR.__new__(cls)
        self.where = torch.device(device)
        return self

    def __init__(self, device='cpu'):
        pass

    @property
    def device(self):
        return self.where

    def manual_seed(self, seed):
        super().manual_seed(seed)
        return self


class _Functions(TorchFunctionMode):
    "Random numbers are made on the device of their generator; `torch.tensor` goes through the CPU."

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (
            func in (torch.tensor, torch.as_tensor)
            and kwargs.get('device') is not None
            and _is_sim(kwargs['device'])
        ):
            return func(*args, **kwargs | {'device': 'cpu'}).to(SIM)
        generator = kwargs.get('generator')
        if generator is not None:
            device = kwargs.get('device') or next((x.device for x in _tensors(args)), 'cpu')
            if _is_sim(device) != _is_sim(generator.device):
                raise RuntimeError(
                    f'Expected a {device} generator, found {generator.device}, in {func.__name__}'
                )
        return func(*args, **kwargs)


_everywhere, _casts = torch.library.Library('_', 'IMPL'), torch.library.Library('aten', 'IMPL')
_everywhere.fallback(torch.library.fallthrough_kernel, 'AutocastPrivateUse1')


def _half(name):
    "Under autocast this operation computes in bfloat16."
    operation = getattr(torch.ops.aten, name).default

    def cast(*args):
        low = tree_map(lambda x: x.to(torch.bfloat16) if isinstance(x, torch.Tensor) else x, args)
        with torch._C._ExcludeDispatchKeyGuard(
            torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
        ):
            return operation(*low)

    _casts.impl(name, cast, 'AutocastPrivateUse1')


for _name in ('conv2d', 'linear'):
    _half(_name)


@contextmanager
def device():
    "Inside, `sim` can be used like the device of a GPU."
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with ExitStack() as stack:
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        patches = (
            patch('torch.Generator', Generator),
            patch('torch.accelerator.synchronize'),
            patch.object(_MODULE, 'active', True),
        )
        for context in (*patches, _Operations(), _Functions()):
            stack.enter_context(context)
        yield SIM
