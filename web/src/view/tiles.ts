/** The image itself: squares of 512 px from a pyramid, the coarse ones shown until the fine ones are there. */
import { api, type TileView } from "../api";
import type { ImageDetail } from "../types";
import type { Camera } from "./camera";

const SIDE = 512;
const MAX_TILES = 320;
const cache = new Map<string, HTMLImageElement>();

function tile(address: string, ready: () => void): HTMLImageElement | null {
  let element = cache.get(address);
  if (element) {
    cache.delete(address); // and in again at the end: the oldest stand first
  } else {
    element = new Image();
    element.decoding = "async";
    element.onload = ready;
    element.src = address;
  }
  cache.set(address, element);
  while (cache.size > MAX_TILES) cache.delete(cache.keys().next().value!);
  return loaded(element) ? element : null;
}

function loaded(element: HTMLImageElement | undefined): boolean {
  return element !== undefined && element.complete && element.naturalWidth > 0;
}

/** The coarsest level whose pixels are not larger than those of the screen. */
export function levelFor(scale: number, levels: number): number {
  return Math.max(0, Math.min(levels - 1, Math.floor(Math.log2(1 / scale) + 0.01)));
}

export function drawTiles(
  context: CanvasRenderingContext2D, image: ImageDetail, camera: Camera, view: TileView,
  width: number, height: number, ratio: number, ready: () => void,
): void {
  const wanted = levelFor(camera.scale * ratio, image.levels);
  context.imageSmoothingEnabled = camera.scale * ratio < 3;
  const seen = [...visible(image, camera, wanted, width, height)];
  const there = seen.every(([x, y]) => loaded(cache.get(api.tile(image.index, wanted, x, y, view))));
  const levels = there ? [wanted] : new Set([image.levels - 1, Math.min(image.levels - 1, wanted + 2), wanted]);
  for (const level of levels) drawLevel(context, image, camera, view, width, height, level, ready);
}

function drawLevel(
  context: CanvasRenderingContext2D, image: ImageDetail, camera: Camera, view: TileView,
  width: number, height: number, level: number, ready: () => void,
): void {
  const side = SIDE * 2 ** level;
  for (const [x, y] of visible(image, camera, level, width, height)) {
    const element = tile(api.tile(image.index, level, x, y, view), ready);
    if (!element) continue;
    const w = Math.min(side, image.width - x * side);
    const h = Math.min(side, image.height - y * side);
    context.drawImage(element, x * side, y * side, w, h);
  }
}

/** Column and row of each tile of a level that is in the window. */
function* visible(image: ImageDetail, camera: Camera, level: number, width: number, height: number): Generator<[number, number]> {
  const side = SIDE * 2 ** level;
  const first = (offset: number) => Math.max(0, Math.floor(-offset / camera.scale / side));
  const last = (offset: number, seen: number, size: number) =>
    Math.min(Math.ceil(size / side) - 1, Math.floor((seen - offset) / camera.scale / side));
  for (let y = first(camera.y); y <= last(camera.y, height, image.height); y++) {
    for (let x = first(camera.x); x <= last(camera.x, width, image.width); x++) yield [x, y];
  }
}
