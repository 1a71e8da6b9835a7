"""Training as a generator of finished epochs, with resumable state.

- `loop`: `train`, the generator; a run calls it, and so can any program
- `evaluate`: logits, loss and accuracy on all images of a set
- `recording`: predictions on training images, recorded by the loop
- `checkpoint`: everything needed to resume with identical results
- `interrupt`: delays Ctrl-C and SIGTERM until they can do no harm
- `distributed`: the ranks of a run on several devices
- `descent`: minimizes any loss, for densities; `retrain`: brief training from scratch, for ROAR
"""
