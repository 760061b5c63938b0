"""A network of any architecture with a scale per task and channel after some submodules.

Source: Zhao et al., ECCV 2018, section 5.1: the module suits any network.
Shapes: B batch, T tasks, C channels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from modlib.errors import ModlibError, unknown_name
from modlib.modulation import ChannelScale, check_task_indices


class CurrentTask:
    """What the inserted scales share during a call: each image's task, or that all are wanted."""

    def __init__(self):
        self.task_B: Tensor | None = None
        self.all_tasks = False


class InsertedScale(nn.Module):
    """A :class:`ChannelScale` on the output of one submodule, by a forward hook.

    Args:
        num_tasks: T, at least 1.
        channels: C, of that output.
        dim: the dimension of the output that holds the channels.
        name: the submodule's, for messages.
        current: shared by all scales of one network.
    """

    def __init__(self, num_tasks: int, channels: int, dim: int, name: str, current: CurrentTask):
        super().__init__()
        self.scale = ChannelScale(num_tasks, channels)
        self.num_tasks, self.dim, self.name, self.current = num_tasks, dim, name, current

    def hook(self, _module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
        """Scale the output; where all tasks are wanted, the first scale makes T·B of B images."""
        current = self.current
        if current.all_tasks and current.task_B is None:
            batch = len(output)
            current.task_B = torch.arange(
                self.num_tasks, device=output.device).repeat_interleave(batch)
            output = output.repeat(self.num_tasks, *[1] * (output.ndim - 1))
        if current.task_B is None:
            raise ModlibError(
                f"the output of {self.name!r} is modulated and needs a task: call the network that "
                "insert_modulation returned, with a task per image, or remove() the modulation. "
                "(A part that is computed anew in the backward pass cannot be modulated.)")
        channels_last = output.movedim(self.dim, -1)
        scales_BC = self.scale.scales()[current.task_B].to(output.dtype)
        shape = (len(output), *[1] * (channels_last.ndim - 2), scales_BC.shape[-1])
        return (channels_last * scales_BC.reshape(shape)).movedim(-1, self.dim)


class ModulatedNetwork(nn.Module):
    """A network with a scale per task and channel after some of its submodules.

    Made by :func:`modlib.insertion.insert_modulation`. The network itself is ``model``, with its
    parameters under their own names; the scales are in ``modulation``.

    Attributes:
        tasks: the T task names; a task's index is its place among them.
        once: whether :meth:`for_all_tasks` can compute what precedes the first scale once.
    """

    def __init__(self, model: nn.Module, tasks: Sequence[str], places: Mapping[str, tuple]):
        super().__init__()
        self.tasks, self.once, self.removed = tuple(tasks), True, False
        self.model, self.current = model, CurrentTask()
        self.modulation, self._handles = nn.ModuleDict(), []
        self._keys: dict[str, str] = {}
        for name, (channels, dim) in places.items():
            scale = InsertedScale(len(tasks), channels, dim, name, self.current)
            key = name.replace(".", "/")  # a module's name may hold no dot
            # nor may it be one of nn.ModuleDict's own, such as "keys"
            self._keys[name] = f"/{key}" if hasattr(nn.ModuleDict, key) else key
            self.modulation[self._keys[name]] = scale
            self._handles.append(model.get_submodule(name).register_forward_hook(scale.hook))

    def forward(self, images: Tensor, task_B: Tensor, *args, **options) -> Tensor:
        """The model's output, each image modulated for its own task.

        Args:
            images: (B, …), what the model takes first.
            task_B: int64 (B,), indices into ``tasks``.
            args, options: what else the model takes.

        Raises:
            ModlibError: task indices of another shape or kind, or outside [0, T).
        """
        self._check_inserted()
        check_task_indices(task_B, len(self.tasks), len(images))
        self.current.task_B, self.current.all_tasks = task_B, False
        try:
            return self.model(images, *args, **options)
        finally:
            self.current.task_B = None

    def for_all_tasks(self, images: Tensor, *args, **options) -> Tensor:
        """The model's output for every task; what precedes the first scale is computed once.

        Where a connection leads around the first scale (it lies inside a residual block, say)
        that cannot be done, ``once`` is False, and every image goes through T times. In train
        mode the batch statistics after the first scale span all tasks.

        Returns:
            (T, B, …).

        Raises:
            ModlibError: the model gives something else than one tensor.
        """
        self._check_inserted()
        tasks, batch = len(self.tasks), len(images)
        if self.once:
            self.current.task_B, self.current.all_tasks = None, True
            try:
                output = self.model(images, *args, **options)
            finally:
                self.current.task_B, self.current.all_tasks = None, False
        else:
            task_TB = torch.arange(tasks, device=images.device).repeat_interleave(batch)
            output = self(images.repeat(tasks, *[1] * (images.ndim - 1)), task_TB, *args, **options)
        if not isinstance(output, Tensor):
            raise ModlibError(
                f"for_all_tasks needs a model that gives one tensor; {type(self.model).__name__} "
                f"gives a {type(output).__name__}: call the network with a task per image")
        return output.unflatten(0, (tasks, batch))

    def scale_after(self, name: str) -> ChannelScale:
        """The scales after a submodule: its ``weight`` is (T, C).

        Raises:
            ModlibError: no scales were inserted there.
        """
        if name not in self._keys:
            raise unknown_name("modulated submodule", name, self._keys)
        return self.modulation[self._keys[name]].scale

    def last_submodule(self) -> nn.Module:
        """The submodule whose output is modulated last."""
        return self.model.get_submodule(list(self._keys)[-1])

    def shared_parameters(self) -> list[nn.Parameter]:
        """The model's own parameters that are trained, by every task."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def task_parameters(self) -> list[nn.Parameter]:
        """The scales' weights."""
        return list(self.modulation.parameters())

    def remove(self) -> nn.Module:
        """Take the modulation out again and return the model as it was given."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.removed = True
        return self.model

    def _check_inserted(self) -> None:
        if self.removed:
            raise ModlibError("the modulation was removed: call the model, or insert it anew")
