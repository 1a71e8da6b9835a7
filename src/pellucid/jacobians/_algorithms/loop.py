"""One backward pass per output, over one shared forward pass."""

from pellucid.jacobians._algorithms._part import Part, gradients

__all__ = ["loop"]


def loop(part: Part) -> int:
    """Compute the rows of J one by one: row k is the gradient of output k."""
    # one cotangent tensor is reused for all passes; unbinding once saves an indexing operation per pass
    flat = part.run()
    cotangent, leaves = flat.new_zeros(flat.shape), part.differentiated
    columns, targets = cotangent.unbind(1), [rows.unbind(1) for rows in part.rows]
    for place, index in enumerate(part.plan.wanted):
        # 1 for all images at once: they do not affect each other, so each gets its own gradient
        columns[index].fill_(1)
        for target, gradient in zip(targets, gradients(flat, leaves, cotangent), strict=True):
            if gradient is None:  # an input that this output does not depend on
                target[place].zero_()
            else:
                target[place].copy_(gradient)
        columns[index].zero_()
    return len(part.plan.wanted)
