/** A pointer that keys move, for those who have no mouse: it presses as a mouse does with the tool in hand, and holds what
 *  a mouse would drag until the next press. */
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
/** px of the image: a pointer that goes from pixel to pixel comes no nearer to any place than this. */
const NEAREST = 0.75;
const DIRECTIONS: Record<string, Point> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
/** Whether it was moved since it pressed: where it was not, the same key keeps what came of it. */
let moved = true;

export function togglePointer(): void {
  const { width, height } = stageSize.value;
  if (pointer.value) return hidePointer();
  if (!image.value) return;
  pointer.value = inside(toImage([width / 2, height / 2]));
  moved = true;
  focusStage(); // a button would keep the arrow keys
  say(texts.pointerOn);
}

export function focusStage(): void {
  document.querySelector<HTMLElement>(".stage")?.focus();
}

export function hidePointer(): void {
  tool.value.leave?.();
  pointer.value = null;
}

/** What a key does while there is a pointer; false: nothing. */
export function pointed(named: string): boolean {
  if (!pointer.value || !image.value) return false;
  const key = named.replace("Shift+", "");
  const shift = key !== named;
  if (DIRECTIONS[key]) move(DIRECTIONS[key], shift ? FAR : NEAR);
  else if (key === "Enter" && (holds() || moved || !tool.value.pending?.())) press({ right: false, shift });
  else if (key === "Escape" && holds()) drop();
  else if (key === "Backspace" || key === "Delete") press({ right: true, shift });
  else return false;
  return true;
}

const holds = () => tool.value.held?.() ?? false;

function move([dx, dy]: Point, far: number): void {
  const step = Math.max(1, far / camera.value.scale);
  const [x, y] = pointer.value!;
  pointer.value = inside([x + dx * step, y + dy * step]);
  moved = true;
  reveal(pointer.value);
  tool.value.move(at(), holds());
}

/** Takes hold where the tool draws by dragging, else clicks; lets go of what is held. */
function press(how: Pick<Press, "right" | "shift">): void {
  const said = { ...at(), ...how };
  const held = holds();
  moved = false;
  if (!held) tool.value.down(said);
  if (held || !holds()) tool.value.up(said);
  announce();
}

function drop(): void {
  tool.value.cancel?.();
  announce();
}

/** What is said below the image depends on what is held. */
function announce(): void {
  pointer.value = [...pointer.value!];
}

function at(): Press {
  const reach = Math.max(REACH / camera.value.scale, NEAREST);
  return { point: pointer.value!, right: false, shift: false, alt: false, reach, double: false, at: performance.now() };
}

/** Where it is in the window: what keys zoom about. */
export function pointerPlace(): Point | undefined {
  const { scale, x, y } = camera.value;
  return pointer.value ? [pointer.value[0] * scale + x, pointer.value[1] * scale + y] : undefined;
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
