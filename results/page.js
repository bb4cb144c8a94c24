"use strict";
// Everything the page does: unpack and draw its plots, and copy an architecture's key by mouse, finger or keyboard.

const coarse = matchMedia("(pointer: coarse)").matches;
// Where nothing can hover, plotly would show its toolbar all the time.
const hovers = matchMedia("(hover: hover)").matches && !coarse;

async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
}

let silence;
function say(text) {
  const status = document.getElementById("status");
  status.textContent = text;
  status.classList.add("shown");
  clearTimeout(silence);
  silence = setTimeout(() => status.classList.remove("shown"), 2500);
}

async function copyKey(key) {
  try {
    await navigator.clipboard.writeText(key);
  } catch {  // no clipboard without a secure page: the old way
    const field = document.createElement("textarea");
    const focused = document.activeElement;
    field.value = key;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    focused?.focus();
    if (!done) return say(`The key: ${key}`);
  }
  say(`Copied the key ${key}`);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copyKey(button.dataset.copy);
});

// The points of the front in the order of the axis, for the arrow keys.
function frontOf(data) {
  const points = [];
  data.forEach((trace, curveNumber) => (trace.customdata || []).forEach(([key, onFront], pointNumber) => {
    if (onFront) points.push({key, x: trace.x[pointNumber], curveNumber, pointNumber});
  }));
  return points.sort((a, b) => a.x - b.x);
}

function makeWalkable(element, data) {
  const points = frontOf(data);
  if (!points.length) return;
  let at = -1;
  element.tabIndex = 0;
  element.setAttribute("role", "group");
  element.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (step) at = Math.min(Math.max(at + step, 0), points.length - 1);
    else if (event.key === "Enter" && at >= 0) copyKey(points[at].key);
    else return;
    event.preventDefault();
    const {curveNumber, pointNumber} = points[at];
    Plotly.Fx.hover(element, [{curveNumber, pointNumber}]);
  });
  element.addEventListener("blur", () => Plotly.Fx.unhover(element));
}

async function draw(element) {
  const figure = JSON.parse(await unpack(element.dataset.figure));
  if (coarse) figure.layout.dragmode = false;  // a finger on a plot must scroll the page
  await Plotly.newPlot(element, figure.data, figure.layout, {
    responsive: true, displaylogo: false, displayModeBar: hovers ? "hover" : false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]]
  });
  element.on("plotly_click", ({points: [point]}) => point.customdata && copyKey(point.customdata[0]));
  makeWalkable(element, figure.data);
}

async function drawAll() {
  const elements = document.querySelectorAll("[data-figure]");
  if (!elements.length) return;
  try {
    const code = document.createElement("script");
    code.textContent = await unpack("plotly-code");
    document.head.append(code);
    for (const element of elements) await draw(element);
  } catch (error) {
    for (const element of elements) {
      if (!element.childElementCount) element.textContent = `This browser cannot draw the plot (${error.message}).`;
    }
  }
}

drawAll();
