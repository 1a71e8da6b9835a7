/* Histograms of residuals, complete in the markup. data: {charts: [{method, bars: [{height, text}], ticks, summary, most}]}. */
pellucid.kinds.histograms = () => null;
