"""TRAK by dattri on the networks of `influence.py`; runs in an environment with torch and dattri."""

import sys
import time

import torch
from dattri.algorithm.trak import TRAKAttributor
from dattri.task import AttributionTask
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main(source: str, target: str) -> None:
    """Read the case in `source`, and write scores (test, train) and CPU seconds to `target`."""
    torch.set_num_threads(1)
    case = torch.load(source, weights_only=False)
    model: nn.Module = case["model"].eval()

    def margin(parameters: dict[str, torch.Tensor], pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        image, label = pair
        logits = torch.func.functional_call(model, parameters, image[None])
        # the usual log p − log(1 − p) is infinite for certain predictions, and all scores NaN
        is_label = torch.arange(logits.shape[1]) == label
        return torch.where(is_label, logits[0], 0.0).sum() - logits[0].masked_fill(is_label, -torch.inf).logsumexp(0)

    def probability(parameters: dict[str, torch.Tensor], pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        image, label = pair
        logits = torch.func.functional_call(model, parameters, image[None])
        return torch.exp(-nn.functional.cross_entropy(logits, label[None]))

    train = DataLoader(TensorDataset(*case["train"]), batch_size=case["batch"], shuffle=False)
    test = DataLoader(TensorDataset(*case["test"]), batch_size=case["batch"], shuffle=False)
    started = time.process_time()
    task = AttributionTask(loss_func=margin, model=model, checkpoints=case["checkpoints"])
    options = {"proj_dim": case["dimensions"], "proj_max_batch_size": 32, "proj_seed": case["seed"], "device": "cpu"}
    options["proj_type"] = case["kind"]
    attributor = TRAKAttributor(task, probability, options, regularization=case["ridge"])
    attributor.cache(train)
    with torch.no_grad():
        scores = attributor.attribute(test).T
    torch.save({"scores": scores, "seconds": time.process_time() - started}, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
