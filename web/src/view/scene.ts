/** One frame: image, masks, the selected objects, what the tool draws. */
import { image, low, high, channel, objects, opacity, outlines, project, shades, colorBy, proposals, selected, selection, shown } from "../store";
import { tool } from "../tools/current";
import { camera, stageSize } from "./camera";
import { Overlay } from "./overlay";
import { ACCENT, colorOf, pathOf } from "./paths";
import { drawPointer } from "./pointer";
import { drawTiles } from "./tiles";
import { signal } from "@preact/signals";

/** Raised when something arrived that must be drawn: a tile, a model's answer. */
export const dirty = signal(0);
let asked = false;

export function redraw(): void {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; dirty.value++; });
}

const overlay = new Overlay(redraw);

export function drawScene(canvas: HTMLCanvasElement): void {
  void dirty.value;
  const context = canvas.getContext("2d")!;
  const ratio = devicePixelRatio;
  const { width, height } = stageSize.value;
  if (width < 2 || height < 2) return; // not laid out: another page is shown
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, w, h);
  const now = image.value;
  if (!now) return;
  const c = camera.value;
  const toCanvas = () => context.setTransform(c.scale * ratio, 0, 0, c.scale * ratio, c.x * ratio, c.y * ratio);
  toCanvas();
  const view = { low: low.value, high: high.value, channel: channel.value, shades: said(now.channels.length) };
  drawTiles(context, now, c, view, width, height, ratio, redraw);
  if (shown.value) {
    const all = [...objects.value, ...proposals.value];
    const look = {
      opacity: opacity.value, outlines: outlines.value, selected: selected.value,
      proposals: new Set(proposals.value.map((p) => p.id)),
    };
    const key = [
      objects.value, proposals.value, selected.value, opacity.value, outlines.value, colorBy.value,
      project.value?.categories, width, height, ratio,
    ];
    overlay.draw(context, all, look, c, { width, height, ratio }, key);
    toCanvas();
    drawSelected(context, c.scale);
  }
  context.lineJoin = context.lineCap = "round";
  tool.value.draw(context, c.scale);
  drawPointer(context, c.scale);
}

/** As the server reads it; null: the image has no channels to choose from. */
function said(channels: number): string | null {
  if (!channels) return null;
  const each = shades.value.map(({ on, color, low, high }, k) => (on ? `${k}:${color.slice(1)}:${low ?? ""}:${high ?? ""}` : ""));
  return each.filter((text) => text).join(",");
}

function drawSelected(context: CanvasRenderingContext2D, scale: number): void {
  context.lineJoin = "round";
  for (const object of selection.value) {
    const path = pathOf(tool.value.replaces?.(object) ?? object.rings);
    context.fillStyle = colorOf(object);
    context.globalAlpha = Math.min(0.6, opacity.value + 0.12);
    context.fill(path, "evenodd");
    context.globalAlpha = 1;
    context.setLineDash([]);
    strokeTwice(context, path, scale, colorOf(object));
  }
}

/** A white line with a colored core is seen on any image. */
export function strokeTwice(context: CanvasRenderingContext2D, path: Path2D, scale: number, color: string): void {
  context.strokeStyle = ACCENT;
  context.lineWidth = 3.5 / scale;
  context.stroke(path);
  context.strokeStyle = color;
  context.lineWidth = 1.5 / scale;
  context.stroke(path);
}
