"""The pipeline of a run, from settings to report, and the work of the other commands.

- `pipeline`: the recipe of a run: data → model → epochs → hooks → report
- `session`: what a run needs, loaded and checked before any file of an earlier run is touched
- `network`: the network of a run, with trained weights and the normalization of its input
- `schedule`: hooks in parallel with training, then end hooks, films and report; `workers`: child processes
- `recording`: which training images the recorder of a run samples
- `native`: the native Jacobian kernel, used by all processes of a run or by none
- `hook_runner`: runs hooks, stores what they return, and records failures
- `observation`: a user's model and test data, checked and ready for the hooks; `watcher`: `pellucid.watch`, for the
  user's training loop; `inspection`: `pellucid.inspect`
- `record`: the contents of run.json and metrics.jsonl; `console`: what a run prints
- `explaining`: `pellucid.explain`; `given`: converts the inputs that users pass; `picture_page`: `pellucid explain`
- `to_disk`: `pellucid.explain_to_disk` and `pellucid explain --dataset`, for whole data sets
- `concepts`: `pellucid.concepts`, over a data set
- `influences`: `pellucid.influence`, for saved runs
- `recommending`: `pellucid.recommend`
- `comparing`: `pellucid.compare`; `compared` opens the models, `alignment` finds their common test images, `settings`
  separates seeds from settings, `comparison_maps`, `compared_images` and `compared_layers` fill the page
- `reopening`: the model and the test images of a saved inspection
- `serving`: `pellucid serve`; `serving_http`: its server; `serving_request`: checks what clients send;
  `serving_maps`: computes the requested maps
- `evaluation`, `ground_truth`, `export`: the work of `pellucid evaluate`, `ground-truth` and `export`
"""
