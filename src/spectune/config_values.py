"""What the sections of the run's configuration share: the rules of a section, and kinds of values with their bounds."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MOST = 2**31 - 1  # of steps, rows, tokens: beyond, a slip of the keyboard
PositiveInt = Annotated[int, Field(ge=1, le=MOST)]
Rank = Annotated[int, Field(ge=1, le=65_536)]
Name = Annotated[str, Field(min_length=1)]
LocalPath = Annotated[Name, AfterValidator(os.path.expanduser)]  # no shell reads a run file
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
OpenUnit = Annotated[float, Field(gt=0.0, lt=1.0)]
Task = Literal["classification", "summarization", "translation", "text2text"]

# An adapter's name becomes a key of torch's ModuleDict and ParameterDict, which refuse those of their own methods.
TAKEN_NAMES = frozenset(
    """add_module apply bfloat16 buffers call_super_init children clear compile copy cpu cuda double dump_patches
    eval extra_repr float forward fromkeys get get_buffer get_extra_state get_parameter get_submodule half
    ipu items keys load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters
    pop popitem register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
    register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule setdefault share_memory state_dict to
    to_empty train training type update values xpu zero_grad T_destination""".split()
)


class Section(BaseModel):
    """Shared rules: unknown keys are refused, values are fixed once made, NaN and infinity are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), str_strip_whitespace=False
    )
