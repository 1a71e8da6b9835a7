/* The verdict of the conservation check: is the sum of a map what its method promises? */
{
  const COMPLETE_SHARE = 0.01; // largest residual of a complete map, as a share of the expected sum
  const ROUNDING_SHARE = 1e-3; // the same as a share of Σ|R|, for expected sums near zero
  const SAME_SHARE = 1e-3; // largest difference between the logit and an expected sum that is called the logit

  /* Return a share as a percentage with two significant digits. */
  const rough = (share) => (share < 1e-6 ? "0.0001%" : `${Number((100 * share).toPrecision(2))}%`);

  /* Return {verdict, numbers: [[term, text]], remark} for a map; `logit` is that of the explained class or null. */
  pellucid.conservation = (map, logit, method, page) => {
    const { expected, residual, allowed } = map;
    if (expected === null || residual === null) {
      return { verdict: `No guarantee: ${method} does not promise a sum.`, numbers: [], remark: "" };
    }
    const total = expected + residual;
    const size = map.values.reduce((sum, value) => sum + Math.abs(value), 0) * map.unit;
    const [share, rest] = [Math.abs(residual / expected), Math.abs(residual)];
    const isLogit = logit !== null && Math.abs(expected - logit) <= SAME_SHARE * Math.abs(logit);
    const what = isLogit ? "the logit" : "the expected sum";
    const isWithin = allowed === null || rest <= allowed;
    const numbers = [
      ...(logit === null ? [] : [["logit", page.digits(logit, 5)]]),
      ["expected sum", page.digits(expected, 5)], ["sum", page.digits(total, 5)], ["residual", page.digits(residual, 2)],
      ...(allowed === null ? [] : [["tolerance", page.digits(allowed, 2)]]),
    ];
    const remark = isLogit ? "" : "The expected sum is the total that the method distributes, less what biases, stabilizers and constants absorb.";
    const said = (verdict) => ({ verdict, numbers, remark });
    if (!Number.isFinite(total)) return said("The sum is not finite: the map cannot be relied on.");
    if (isWithin && share <= COMPLETE_SHARE) {
      return said(residual === 0 ? `Complete: the relevance sums to ${what} exactly.`
        : `Complete: the relevance sums to ${what} to within ${rough(share)}.`);
    }
    if (isWithin && rest <= ROUNDING_SHARE * size) {
      return said(`Complete: the relevance sums to ${what}, ${page.digits(expected, 2)}, up to rounding.`);
    }
    const missed = `Incomplete: the relevance misses ${expected ? `${rough(share)} of ` : ""}${what}`;
    if (allowed === null) return said(`${missed}.`);
    return said(isWithin ? `${missed}, within the tolerance of the method.` : `${missed}, more than the tolerance of the method.`);
  };
}
