"""Classes that a source tells by itself, so that nobody has to list a thousand fractals. Light."""

from collections.abc import Mapping, Sequence
from typing import Any

from infra.drawn import find_drawer, has_drawer
from pretrain.declare import Options
from pretrain.labels import Labelled, MultiLabelled, Taught
from pretrain.options.joint import JointOptions
from pretrain.settings import TrainSettings

Made = Mapping[str, Any]  # the settings that a version was made with


def with_classes(settings: TrainSettings, sources: Mapping[str, Made]) -> TrainSettings:
    """With the classes of the source, and the field that has them, where neither is set.

    sources: by the names that the run has for them. A version that comes from a drawer knows its
    classes; of several sources classes of one name need not be the same, so these are left. Each
    part of a joint run that learns from one source has the classes of that.
    """
    options = settings.options
    if isinstance(options, JointOptions):
        filled = {
            name: _filled(part.options, [sources[key] for key in part.sources or sources
                                         if key in sources])
            for name, part in options.parts.items()
        }  # fmt: skip
        if all(filled[name] is part.options for name, part in options.parts.items()):
            return settings
        parts = {
            name: part.model_copy(update={"options": filled[name]})
            for name, part in options.parts.items()
        }
        found: Options = options.model_copy(update={"parts": parts})
    else:
        found = _filled(options, list(sources.values()))
    return settings if found is options else settings.model_copy(update={"options": found})


def _filled(options: Options, sources: Sequence[Made]) -> Options:
    if not isinstance(options, Labelled) or isinstance(options, Taught) or options.classes:
        return options
    if len(sources) != 1 or not has_drawer(sources[0]):
        return options
    told = find_drawer(sources[0]["drawer"], sources[0]["drawn"]).classes
    if told is None or told.several != isinstance(options, MultiLabelled):
        return options
    if "label" in options.model_fields_set and options.label != told.field:
        return options
    return options.model_copy(update={"label": told.field, "classes": tuple(told.names)})
