"""The engine: record a model's forward pass, propagate relevance back through it, and read hidden activations.

On the path of one explanation:

- `model`: run the user's model: freeze it, choose its logits and the images per pass
- `table`, `operations/`: which torch functions are known, their traits, and the handlers that record them
- `recorder`, `call`, `tape`: record a forward pass as nodes, and propagate relevance back over them; the account of
  absorption
- `memory`: in-place writes to memory that several tensors share; `axes`: which axis holds the images
- `linear_maps`: convolutions, matrix products and the like, each with its transpose
- `canonical`: make equal functions equal nodes, however a model spells them
- `rules`, `weight_rules`, `composites`: relevance rules, and which operation gets which rule
- `installed`: operations and rules of installed packages
- `relevance`: `propagate`, from a model and a composite to relevance

Other files:

- `arrays`, `inputs`, `input_errors`: what users pass as inputs, and the errors of models that do not accept it
- `outputs`: the selection of one tensor among several outputs
- `lockstep`: DeepLIFT, by two passes in lockstep
- `patterns`: the statistics of PatternNet and PatternAttribution
- `box`: the bounds of the z^B rule
- `batch_norm`: derivatives of norms that torch computes wrongly, and the refusal of batch statistics
- `derivatives`: missing derivatives told apart from zero ones
- `taint`: dependencies on the image that the recorder cannot see
- `layers`: the layers of a model, and the filters of the first one
- `hidden`: the outputs of named layers, read or replaced; `arrivals`: the relevance that arrives at them, and its split
  where paths meet; `conditional`: what passes through single channels; `units`: hidden units, as targets of an
  explanation, and sets of channels
- `tap`: hidden activations, such as the embedding; `activations`: the outputs of all layers; `layer_calls`: the calls
  of modules with weights and of activation functions
- `programs/`: a network as a list of steps and weights, which the report runs without torch
- `wrapping`: compiled, exported, scripted, sharded and quantized models: unwrapped, or refused by name
"""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from pellucid.engine.call import Call
    from pellucid.engine.composites import Composite, Step
    from pellucid.engine.operations import operation
    from pellucid.engine.operations.elementwise import register_elementwise
    from pellucid.engine.rules import Carry, Deconvnet, Derivative, Epsilon, Guided, Pass, SoftmaxTaylor, Split, Z
    from pellucid.engine.tape import Account, Affine, Node, Relevances, Rule
    from pellucid.engine.units import Unit
    from pellucid.engine.weight_rules import AlphaBeta, Flat, Gamma, WSquare, ZBox, ZPlus

__all__ = [
    "Account",
    "Affine",
    "AlphaBeta",
    "Call",
    "Carry",
    "Composite",
    "Deconvnet",
    "Derivative",
    "Epsilon",
    "Flat",
    "Gamma",
    "Guided",
    "Node",
    "Pass",
    "Relevances",
    "Rule",
    "SoftmaxTaylor",
    "Split",
    "Step",
    "Unit",
    "WSquare",
    "Z",
    "ZBox",
    "ZPlus",
    "operation",
    "register_elementwise",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Account": ".tape",
        "Affine": ".tape",
        "AlphaBeta": ".weight_rules",
        "Call": ".call",
        "Carry": ".rules",
        "Composite": ".composites",
        "Deconvnet": ".rules",
        "Derivative": ".rules",
        "Epsilon": ".rules",
        "Flat": ".weight_rules",
        "Gamma": ".weight_rules",
        "Guided": ".rules",
        "Node": ".tape",
        "Pass": ".rules",
        "Relevances": ".tape",
        "Rule": ".tape",
        "SoftmaxTaylor": ".rules",
        "Split": ".rules",
        "Step": ".composites",
        "Unit": ".units",
        "WSquare": ".weight_rules",
        "Z": ".rules",
        "ZBox": ".weight_rules",
        "ZPlus": ".weight_rules",
        "operation": ".operations",  # not from the table, which `operations` fills
        "register_elementwise": ".operations.elementwise",
    },
)
