import { texts } from "../texts";

const [WIDTH, HEIGHT, PAD] = [640, 150, 26];

/** A line over steps; its largest value and its last are written. */
export function Curve({ points }: { points: [number, number][] }) {
  const last = points[points.length - 1];
  const most = Math.max(...points.map((p) => p[1])) || 1;
  const [from, span] = [points[0][0], last[0] - points[0][0] || 1];
  const x = (step: number) => PAD + ((step - from) / span) * (WIDTH - 3 * PAD);
  const y = (loss: number) => HEIGHT - PAD - (loss / most) * (HEIGHT - 2 * PAD);
  const line = points.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" ");
  return (
    <svg class="curve" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={texts.curve(points[0][1], last[1])}>
      <line x1={PAD} x2={WIDTH - 2 * PAD} y1={HEIGHT - PAD} y2={HEIGHT - PAD} />
      <polyline points={line} />
      <circle cx={x(last[0])} cy={y(last[1])} r="3.500" />
      <text x={x(last[0]) + 7} y={y(last[1]) + 4}>{last[1].toPrecision(3)}</text>
      <text x={PAD} y={14}>{texts.loss} {most.toPrecision(3)}</text>
      <text x={WIDTH - 2 * PAD} y={HEIGHT - 8} text-anchor="end">{texts.step} {last[0]}</text>
    </svg>
  );
}
