// Two sliders for each axis of the parallel coordinates. Lines outside turn grey, and their trials leave the table.
const brush = document.querySelector("#brush");
if (brush) {
  const drawn = figures.parallel.data, names = figures.parallel.layout.xaxis.categoryarray, stride = names.length + 1;
  const lines = drawn.flatMap(({ meta, y }, group) => meta.map((trial, i) => ({ trial, group, at: y.slice(i * stride, (i + 1) * stride) })));
  const axes = colours.filter(({ name, marks }) => names.includes(name) && marks.length > 1).map(colour => {
    const { name, marks, scale } = colour;
    const steps = !scale ? marks.length - 1 : scale[3] && !scale[2] ? Math.min(scale[1] - scale[0], 100) : 100;
    const place = brush.appendChild(document.createElement("fieldset"));
    place.append(Object.assign(document.createElement("legend"), { textContent: name }));
    const ends = ["Lowest", "Highest"].map((end, i) => {
      const slider = Object.assign(document.createElement("input"), { type: "range", min: 0, max: steps, ariaLabel: `${end} ${name}` });
      slider.setAttribute("value", i * steps);  // for the reset
      return place.appendChild(slider);
    });
    const text = place.appendChild(document.createElement("span"));
    return { colour, index: names.indexOf(name), steps, ends, text };
  }).sort((a, b) => a.index - b.index);
  brush.append(...axes.map(({ ends }) => ends[0].parentElement));
  const paint = shown => {
    const limits = axes.map(({ colour, index, steps, ends, text }) => {
      const [low, high] = ends.map(slider => slider.value / steps);
      ends.forEach((slider, i) => slider.setAttribute("aria-valuetext", valueAt(colour, [low, high][i])));
      const chosen = colour.marks.filter(([at]) => at > low - .001 && at < high + .001).map(mark => mark[1]);
      if (colour.scale) text.textContent = [...new Set([low, high].map(end => valueAt(colour, end)))].join(" to ");
      else text.textContent = chosen.length < colour.marks.length ? chosen.join(" or ") : `all ${chosen.length} choices`;
      return { index, low, high };
    }).filter(({ low, high }) => low > 0 || high < 1);
    const isInside = ({ at }) => limits.every(({ index, low, high }) =>
      at[index] !== null && at[index] > low - .001 && at[index] < high + .001);
    const inside = new Set(lines.filter(isInside));
    const data = drawn.map((trace, group) => ({ ...trace, y: lines.filter(line => line.group === group)
      .flatMap(line => inside.has(line) ? line.at : line.at.map(() => null)) }));
    const grey = "rgba(138, 143, 150, .2)";
    if (limits.length) data.unshift({ ...drawn[0], name: "outside", line: { color: grey, width: 1 }, marker: { color: grey, size: 3 },
      x: lines.flatMap(() => [...names, null]), y: lines.flatMap(line => inside.has(line) ? line.at.map(() => null) : line.at) });
    brushed = limits.length ? new Set([...inside].map(line => line.trial)) : null;
    if (shown) {
      draw("parallel");
      show(document.getElementById("parallel"), data, structuredClone(figures.parallel.layout));
      sift();
    }
    const kind = lines.length < +brush.dataset.trials ? "drawn trials" : "trials";
    document.querySelector("#brush-count").value = limits.length
      ? `${inside.size} of ${lines.length} ${kind} are within these ranges. The table of trials shows only these.` : `All ${lines.length} ${kind}.`;
  };
  brush.addEventListener("input", ({ target }) => {
    for (const { ends } of axes) if (ends.includes(target) && +ends[0].value > +ends[1].value) ends.find(end => end !== target).value = target.value;
    paint(true);
  });
  brush.addEventListener("reset", () => setTimeout(paint, 0, true));
  paint(false);
}
