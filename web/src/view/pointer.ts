/** A pointer that keys move, for those who have no mouse: it presses as a mouse does with the tool in hand. */
import { signal } from "@preact/signals";
import { image, say } from "../store";
import { texts } from "../texts";
import { tool } from "../tools/current";
import type { Press } from "../tools/tool";
import type { Point } from "../types";
import { camera, pan, stageSize, toImage } from "./camera";

/** Where it is, in the image's pixels; null: keys move no pointer. */
export const pointer = signal<Point | null>(null);

/** How far a key moves it, px of the screen; with Shift farther. */
const NEAR = 8;
const FAR = 64;
const REACH = 8;
const DIRECTIONS: Record<string, Point> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
/** Whether it was moved since it pressed: where it was not, the same key keeps what came of it. */
let moved = true;

export function togglePointer(): void {
  const { width, height } = stageSize.value;
  if (pointer.value) return hidePointer();
  if (!image.value) return;
  pointer.value = inside(toImage([width / 2, height / 2]));
  moved = true;
  document.querySelector<HTMLElement>(".stage")?.focus(); // a button would keep the arrow keys
  say(texts.pointerOn);
}

export function hidePointer(): void {
  tool.value.leave?.();
  pointer.value = null;
}

/** What a key does while there is a pointer; false: nothing. */
export function pointed(key: string): boolean {
  if (!pointer.value || !image.value) return false;
  const direction = DIRECTIONS[key.replace("Shift+", "")];
  if (direction) move(direction, key.startsWith("Shift+") ? FAR : NEAR);
  else if (key === "Enter" && (moved || !tool.value.pending?.())) press(false);
  else if (key === "Backspace" || key === "Delete") press(true);
  else return false;
  return true;
}

function move([dx, dy]: Point, far: number): void {
  const step = Math.max(1, far / camera.value.scale);
  const [x, y] = pointer.value!;
  pointer.value = inside([x + dx * step, y + dy * step]);
  moved = true;
  reveal(pointer.value);
  tool.value.move(at(false), false);
}

function press(right: boolean): void {
  const said = at(right);
  moved = false;
  tool.value.down(said);
  tool.value.up(said);
}

function at(right: boolean): Press {
  return { point: pointer.value!, right, shift: false, alt: false, reach: REACH / camera.value.scale, double: false, at: performance.now() };
}

function inside([x, y]: Point): Point {
  const { width, height } = image.value!;
  return [Math.min(Math.max(x, 0.5), width - 0.5), Math.min(Math.max(y, 0.5), height - 0.5)];
}

/** The image moves along where the pointer would leave the window. */
function reveal([x, y]: Point): void {
  const { scale, x: left, y: top } = camera.value;
  const beyond = (place: number, side: number) => Math.min(Math.max(place, FAR / 2), Math.max(side - FAR / 2, FAR / 2)) - place;
  const [dx, dy] = [beyond(x * scale + left, stageSize.value.width), beyond(y * scale + top, stageSize.value.height)];
  if (dx || dy) pan(dx, dy);
}

export function drawPointer(context: CanvasRenderingContext2D, scale: number): void {
  if (!pointer.value || !image.value) return;
  const [x, y] = inside(pointer.value);
  const path = new Path2D();
  for (const [dx, dy] of Object.values(DIRECTIONS)) {
    path.moveTo(x + (4 * dx) / scale, y + (4 * dy) / scale);
    path.lineTo(x + (18 * dx) / scale, y + (18 * dy) / scale);
  }
  for (const [color, width] of [["#000", 5], ["#fff", 2]] as const) {
    context.strokeStyle = color;
    context.lineWidth = width / scale;
    context.stroke(path);
  }
}
