// The error over any two parameters: a local mean of the trials' logarithmic errors.
const BANDWIDTH = .12, FEWEST_NEAR = Math.exp(-2);
// How much a trial counts at a distance along an axis: fully in the same choice, else by a normal distribution.
const weigh = ({ marks, scale }) => scale ? distance => Math.exp(-.5 * (distance / BANDWIDTH) ** 2)
  : distance => +(.5 / Math.max(marks.length - 1, 1) > Math.abs(distance));
// The local mean at each row of ys and column of xs of points [x, y, value]; null where no point is near.
const smooth = (points, x, y, xs, ys) => {
  const [columns, rows] = [[x, xs], [y, ys]].map(([axis, nodes], i) => {
    const weight = weigh(axis);
    return nodes.map(node => points.map(point => weight(node - point[i])));
  });
  return rows.map(row => columns.map(column => {
    let sum = 0, total = 0;
    points.forEach((point, i) => {
      const weight = row[i] * column[i];
      total += weight;
      sum += weight * point[2];
    });
    return FEWEST_NEAR > total ? null : sum / total;
  }));
};
// Plotly reads some HTML in every text.
const escape = text => text.replaceAll("&", "&amp;").replaceAll("\u003c", "&lt;");
const label = text => escape(text.length > 18 ? `${text.slice(0, 17)}…` : text);
const shadeAt = place => {
  const at = Math.min(Math.floor(place * 4), 3), share = place * 4 - at;
  const [from, to] = [at, at + 1].map(i => [1, 3, 5].map(start => parseInt(shades[i][1].slice(start, start + 2), 16)));
  return from.map((value, i) => value + share * (to[i] - value));
};
const mapView = document.querySelector("#map-view");
const makeMap = () => {
  const { data: [trace], layout } = structuredClone(figures.map);
  const [x, y] = [mapView.x.value, mapView.y.value].map(name => colours.find(colour => colour.name === name));
  const numbers = Object.keys(x.at).filter(number => number in y.at && known[number].mse !== null);
  const points = numbers.map(number => [x.at[number], y.at[number], Math.log10(Math.max(known[number].mse, 1e-8))]);
  if (!points.length) {
    document.querySelector("#map-sentence").textContent = document.getElementById("map").ariaLabel = `No trial uses both ${x.name} and ${y.name}.`;
    return { data: [], layout };
  }
  const ends = [x, y].map(({ marks, scale }) => scale ? .04 : .5 / Math.max(marks.length - 1, 1));
  const nodes = (n, end) => Array.from({ length: n }, (_, i) => (i + .5) / n * (1 + 2 * end) - end);
  const size = [240, 180], [xs, ys] = size.map((n, i) => nodes(n, ends[i]));
  const values = smooth(points, x, y, xs, ys);
  const means = points.map(([a, b]) => [smooth(points, x, y, [a], [b])[0][0], a, b]);
  const [low, high] = [-1, 1].map(sign => means.reduce((a, b) => sign * b[0] > sign * a[0] ? b : a));
  const canvas = Object.assign(document.createElement("canvas"), { width: size[0], height: size[1] });
  const brush = canvas.getContext("2d"), image = brush.createImageData(...size);
  // Twelve shades, so that their edges are contours. The canvas counts its rows from the top.
  values.reverse().flat().forEach((value, i) => {
    if (value === null) return;
    const band = Math.max(0, Math.min(Math.floor(12 * (value - low[0]) / (high[0] - low[0] || 1)), 11));
    image.data.set([...shadeAt(band / 11), 255], 4 * i);
  });
  brush.putImageData(image, 0, 0);
  layout.images = [{ source: canvas.toDataURL(), xref: "x", yref: "y", x: -ends[0], y: 1 + ends[1], sizex: 1 + 2 * ends[0], sizey: 1 + 2 * ends[1],
                     sizing: "stretch", layer: "below", opacity: .8 }];
  [[layout.xaxis, x], [layout.yaxis, y]].forEach(([axis, { name, marks }], i) => {
    axis.title.text = axis.uirevision = name;
    Object.assign(axis, { range: [-ends[i], 1 + ends[i]], tickvals: marks.map(mark => mark[0]), ticktext: marks.map(mark => label(mark[1])) });
  });
  const error = log => String(+(10 ** log).toPrecision(3));
  Object.assign(trace, { x: points.map(point => point[0]), y: points.map(point => point[1]), customdata: numbers.map(Number),
    text: points.map(([a, b, log], i) => `trial ${numbers[i]}: ${error(log)}\u003cbr>${escape(`${x.name} ${valueAt(x, a)}, ${y.name} ${valueAt(y, b)}`)}`) });
  Object.assign(trace.marker, { color: points.map(point => point[2]), cmin: low[0], cmax: high[0] });
  Object.assign(trace.marker.colorbar, { tickvals: [low[0], high[0]], ticktext: [error(low[0]), error(high[0])] });
  const describe = ([log, a, b]) => `${error(log)} at ${x.name} ${valueAt(x, a)} and ${y.name} ${valueAt(y, b)}`;
  const sentence = `Over ${x.name} and ${y.name}, the smoothed error of ${numbers.length} trials runs from ${describe(low)} to ${describe(high)}.`;
  document.querySelector("#map-sentence").textContent = sentence;
  document.getElementById("map").ariaLabel = `Contour map. ${sentence}`;
  return { data: [trace], layout };
};
if (mapView) {
  for (const option of mapView.querySelectorAll("option")) if (!colours.some(({ name }) => name === option.value)) option.remove();
  makers.map = makeMap;
  const before = { x: mapView.x.value, y: mapView.y.value };
  mapView.addEventListener("change", ({ target: { name } }) => {
    if (mapView.x.value === mapView.y.value) mapView[name === "x" ? "y" : "x"].value = before[name];
    Object.assign(before, { x: mapView.x.value, y: mapView.y.value });
    if (pending.has("map")) return draw("map");
    const { data, layout } = makeMap();
    show(document.getElementById("map"), data, layout);
  });
}
