/* Live explanations by the server of `pellucid serve RUN`.

This script is only in pages that the server sends; there, and nowhere else, two functions exist, from the start and for
every section:

    page.served({index | pixels | picture, method, class, options, invert}, signal) → promise of a map
        index: number of a test image; or pixels: Float32Array of (channel, height, width) in [0, 1], in the model's
        size; or picture: a Blob or File with a PNG or JPEG image of any size, whose colors `invert` inverts.
        method: name of any registered method. class: index; null: the predicted one. options: {name: value}; absent:
        the method's defaults. signal: of an AbortController, whose abort() also stops the server's work.
        The map: {method, class, size: [height, width], values: Float32Array of (height, width), summed over channels,
        limit: value at the ends of the color scale, image: as below, probabilities: [by class] or null,
        logit: of the explained class, sums: {expected, total, residual, allowed, holds} or null if the method
        promises none, verdict: sentence on the sum, notes: [sentence], unit, seconds}.
    page.servedImage(index) → promise of {index, size: [height, width], channels, bytes: Uint8Array of
        (height, width, channel), label, prediction, confidence, isExact}; label and index are null for other images.

Both reject with an Error whose message is the server's, for people to read; after abort() with an AbortError.
*/
