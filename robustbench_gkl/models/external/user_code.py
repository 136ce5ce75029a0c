"""Models in a user's code: ``FILE.py:CALLABLE`` and ``package.module:CALLABLE``."""

from __future__ import annotations

import importlib
import importlib.util
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

from robustbench_gkl.core.code_files import CodeFile
from robustbench_gkl.core.errors import UserError
from robustbench_gkl.core.importing import (
    explained,
    import_file,
    import_named,
    importing,
    on_path,
    reason,
)
from robustbench_gkl.core.shapes import Shape
from robustbench_gkl.models.external.obtaining import obtain
from robustbench_gkl.models.external.source import ExternalSource, legal_name

if TYPE_CHECKING:
    import torch

    from robustbench_gkl.models import Classifier


@contextmanager
def working_directory_on_path() -> Iterator[None]:
    """Let modules in the working directory be found after all installed ones."""
    with on_path(Path.cwd(), first=False):
        yield


@dataclass(frozen=True)
class CodeSource(ExternalSource):
    """A model that a user's code makes.

    Its identity holds the hash of the code: the file and, where they are imported by name, the modules of its
    folder or package. Data that the code reads is covered by the hash of the weights alone.
    """

    attribute: str

    @abstractmethod
    def code(self) -> CodeFile:
        """Return the file that makes the model.

        Raises:
            UserError: there is none.
        """

    @abstractmethod
    def module(self, code: CodeFile) -> ModuleType:
        """Import the file.

        Raises:
            UserError: anything that goes wrong in it.
        """

    def identity(self) -> dict[str, str]:
        """Return kind, argument, ``code_sha256`` and ``code_files``."""
        return self.described() | self.code().identity()

    def load(
        self,
        *,
        num_classes: int,
        input_shape: Shape,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ) -> Classifier:
        """Return the model that the code makes, see :meth:`ExternalSource.load`."""
        from robustbench_gkl.models.external.wrapping import wrap

        code = self.code()
        with importing(code):
            net = obtain(self.module(code), self.attribute, code, self.argument)
            return wrap(
                net,
                what=self.argument,
                num_classes=num_classes,
                input_shape=input_shape,
                mean=mean,
                std=std,
                device=device,
                explained=explained(code),
            )


@dataclass(frozen=True)
class FileSource(CodeSource):
    """``FILE.py:CALLABLE``."""

    kind: ClassVar[str] = "file"
    file: Path

    @property
    def name(self) -> str:
        """``net-build`` for ``nets/net.py:build``."""
        return legal_name(self.file.stem, self.attribute)

    def code(self) -> CodeFile:
        """Return the file with the folder that its imports start from."""
        return CodeFile.at(self.file)

    def module(self, code: CodeFile) -> ModuleType:
        """Import the file, whatever the working directory."""
        return import_file(code)


@dataclass(frozen=True)
class ModuleSource(CodeSource):
    """``package.module:CALLABLE``: of an installed package, or of one in the working directory."""

    kind: ClassVar[str] = "module"
    dotted: str

    @property
    def name(self) -> str:
        """``package.module-build``."""
        return legal_name(self.dotted, self.attribute)

    def code(self) -> CodeFile:
        """Return the source file of the module; its packages are imported to find it."""
        with working_directory_on_path():
            try:
                spec = importlib.util.find_spec(self.dotted)
            except Exception as error:
                raise UserError(f"{self.argument}: cannot import {self.dotted} ({reason(error)})") from error
        if spec is None:
            raise UserError(f"{self.argument}: no module {self.dotted!r}; check the name")
        if spec.origin is None or not spec.origin.endswith(".py"):
            raise UserError(f"{self.argument}: {self.dotted} has no Python source to hash; name a file of Python code")
        return CodeFile.at(Path(spec.origin))

    def module(self, code: CodeFile) -> ModuleType:
        """Import the module."""
        return import_named(self.dotted, code)
