"""Makes a data set one file: every conf/dataset/<name>.yaml is composed under `datasets.<name>`.

Hydra neither lists the files of a group nor derives a package from a file's name. Without this plugin
each new data set would have to be named in conf/config.yaml too, and a copied file whose `@package` line
had been forgotten would silently overwrite the data set it was copied from.

Hydra and DVC find the plugin by its folder (`hydra_plugins` at the root of the repository).
"""

from __future__ import annotations

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, ListConfig, OmegaConf

GROUP = "dataset"
ALL = f"{GROUP}/all"
OTHER = ("images", "interactions")  # the task.kind of what is no table


class DatasetConfigSource(FileConfigSource):
    """Serves the group `dataset` alone: its files, each in its own package, and `all` of them."""

    @staticmethod
    def scheme() -> str:
        return "datasets"

    def _names(self) -> list[str]:
        return sorted(file.stem for file in (Path(self.path) / GROUP).glob("*.yaml"))

    def load_config(self, config_path: str) -> ConfigResult:
        name = config_path.removesuffix(".yaml")
        if name == ALL:
            defaults = OmegaConf.create({"defaults": [*self._names(), "_self_"]})
            return ConfigResult(
                provider=self.provider, path=self.full_path(), config=defaults, header={"package": "_global_"}
            )
        result = super().load_config(config_path)
        result.header["package"] = f"datasets.{name.removeprefix(f'{GROUP}/')}"
        return result

    def is_group(self, config_path: str) -> bool:
        return config_path in {"", GROUP}

    def is_config(self, config_path: str) -> bool:
        name = config_path.removesuffix(".yaml")
        return name == ALL or (name.startswith(f"{GROUP}/") and super().is_config(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "":
            return [GROUP] if results_filter != ObjectType.CONFIG else []
        return ["all", *self._names()] if results_filter != ObjectType.GROUP else []


class DatasetSearchPath(SearchPathPlugin):
    """Puts the source before the folder that it reads."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for entry in list(search_path.get_path()):
            if entry.provider == "main" and (Path(entry.path.removeprefix("file://")) / GROUP).is_dir():
                folder = entry.path.removeprefix("file://")
                search_path.prepend("penstock-datasets", f"{DatasetConfigSource.scheme()}://{folder}")


def _names(root: DictConfig, kind: str | None) -> ListConfig:
    """The data sets of a kind, None for tables. A broken file counts as a table: its error is told there."""
    kinds = {name: OmegaConf.select(dataset, "task.kind") for name, dataset in root.datasets.items()}
    return ListConfig(
        [str(name) for name, found in kinds.items() if found == kind or (kind is None and found not in OTHER)]
    )


# A stage runs over tables, pictures or interactions; which a data set is, its own file says.
OmegaConf.register_new_resolver("penstock.tables", lambda _root_: _names(_root_, None), replace=True)
OmegaConf.register_new_resolver("penstock.images", lambda _root_: _names(_root_, "images"), replace=True)
OmegaConf.register_new_resolver(
    "penstock.interactions", lambda _root_: _names(_root_, "interactions"), replace=True
)

__all__ = ["DatasetConfigSource", "DatasetSearchPath"]
