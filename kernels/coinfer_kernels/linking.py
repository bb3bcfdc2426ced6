"""Machine code once for each kernel, not once more for each function that it calls.

numba optimises a function together with all that it calls, and turns both into machine code; then the same for each
of its callers. Of a kernel with a hundred functions below it most is so compiled ten times over, and only the last of
these is ever run. Here what only kernels call stays LLVM's code as it was written, without machine code, until a
kernel takes it in: the kernel is optimised as a whole.

This is built on numba's way to change its compiler (``pipeline_class``), and on the parts of
``numba.core.codegen.JITCodeLibrary`` named here, which are private: the upper bound of numba's version in
``pyproject.toml`` is the last one with which that has been tested.
"""

from typing import Any, cast

from numba.core import codegen, compiler, environment

from coinfer_kernels.machine_code import told

_codegen: Any = codegen  # without all type hints
_environment: Any = environment
_Library: Any = _codegen.JITCodeLibrary
_Compiler: Any = compiler.CompilerBase
_Passes: Any = compiler.DefaultPassBuilder


class _NoEngine:
    """What stands in for the code generator where a function has no address that could be written to."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def set_env(self, _name: str, _env: Any) -> None:
        """Nothing: :class:`_KernelLibrary` does it for what it takes in."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Own:
    """A library's own code, without what it calls, as ``finalize`` of numba's libraries links it."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._reload_init = getattr(library, "_reload_init", ())  # numba 0.61 has none

    def _get_module_for_linking(self) -> Any:
        return self._library.own_module()


class _PartLibrary(_Library):  # type: ignore[misc]
    """The code of a function that only compiled code calls. It is never turned into machine code by itself."""

    _own: Any = None
    _shared_module: Any

    @property
    def codegen(self) -> Any:
        return _NoEngine(self._codegen)

    def finalize(self) -> None:
        self._raise_if_finalized()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """None, as of a function without a wrapper for Python."""
        self._ensure_finalized()
        return 0

    def own_module(self) -> Any:
        if self._own is None:
            for function in self._final_module.functions:
                if not function.is_declaration and function.linkage == _codegen.ll.Linkage.external:
                    function.linkage = "linkonce_odr"  # may come several times, and goes where it is not used
            self._own = self._final_module
        return self._own

    def _get_module_for_linking(self) -> Any:
        """With all that it calls, for callers that are not compiled by this module."""
        if self._shared_module is None:
            module = self.own_module().clone()
            for library in _with_callees(self)[1:]:
                module.link_in(library._get_module_for_linking(), preserve=True)
            self._shared_module = module
        return self._shared_module


class _KernelLibrary(_Library):  # type: ignore[misc]
    """The code of a kernel, which takes in all parts that it reaches, each once."""

    def finalize(self) -> None:
        self._linking_libraries = _with_callees(self)[1:]
        super().finalize()
        for variable in self._final_module.global_variables:
            if variable.name.startswith("_ZN08NumbaEnv"):
                env = _environment.lookup_environment(variable.name)
                if env is not None:
                    self._codegen.set_env(variable.name, env)


def _with_callees(first: Any) -> list[Any]:
    """The library and all that it needs, parts as their own code alone."""
    found, pending, order = {id(first)}, [first], []
    while pending:
        library = pending.pop()
        order.append(_Own(library) if isinstance(library, _PartLibrary) else library)
        if library is first or isinstance(library, _PartLibrary):
            for callee in library._linking_libraries:
                if id(callee) not in found:
                    found.add(id(callee))
                    pending.append(callee)
    return order


class _OursCompiler(_Compiler):  # type: ignore[misc]
    _library_class: Any

    def compile_extra(self, func: Any) -> Any:
        with told(f"{func.__module__.rpartition('.')[2]}.{func.__qualname__}"):
            return super().compile_extra(func)

    def define_pipelines(self) -> list[Any]:
        state = self.state
        state.library = self._library_class(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return [cast(Any, _Passes.define_nopython_pipeline(state))]


class KernelCompiler(_OursCompiler):
    """The compiler of kernels."""

    _library_class = _KernelLibrary


class PartCompiler(_OursCompiler):
    """The compiler of functions that only kernels, or other compiled functions, call."""

    _library_class = _PartLibrary
