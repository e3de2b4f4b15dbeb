import { render } from "preact";
import { listen } from "./api";
import { go, handleKey } from "./commands";
import { Help } from "./parts/Help";
import { Measure } from "./parts/Measure";
import { loadJobs, Models } from "./parts/Models";
import { Sidebar } from "./parts/Sidebar";
import { Timeline } from "./parts/Timeline";
import { Thumbnails } from "./parts/Thumbnails";
import { ActionBar, Toolbar } from "./parts/Toolbar";
import { TopBar } from "./parts/TopBar";
import { changedElsewhere, generation, helpOpen, image, loadProject, notice, open, problem, takeJob, view } from "./store";
import { texts } from "./texts";
import type { Job } from "./types";
import { Stage } from "./view/Stage";
import "./styles.css";

function App() {
  return (
    <div class="app">
      <TopBar />
      {view.value === "annotate" ? <Annotate /> : view.value === "models" ? <Models /> : <Measure />}
      <Help />
      <Notice />
    </div>
  );
}

function Annotate() {
  return (
    <div class="annotate">
      <Thumbnails />
      <Toolbar />
      <main class="canvas">
        <Stage />
        <Timeline />
        {problem.value !== null && <div class="broken-image" role="alert">
          <h2>{texts.cannotOpen}</h2><p>{problem.value}</p><p class="quiet">{texts.goOn}</p>
          <button class="primary" onClick={() => go(1)}>{texts.commands.next}</button>
        </div>}
        <ActionBar />
      </main>
      <Sidebar />
    </div>
  );
}

function Notice() {
  const now = notice.value;
  return (
    <div class="notices" role="status" aria-live="polite">
      {now && <div class={`notice${now.bad ? " bad" : ""}`}>
        <span>{now.text}</span>
        {now.action && <button onClick={() => { notice.value = null; now.action!.run(); }}>{now.action.label}</button>}
        <button class="icon" aria-label={texts.dismiss} onClick={() => { notice.value = null; }}>×</button>
      </div>}
    </div>
  );
}

const QUIET_MS = 5000;
let fading = 0;
notice.subscribe((now) => {
  clearTimeout(fading);
  if (now && !now.bad) fading = window.setTimeout(() => { notice.value = null; }, QUIET_MS);
});

const changed = (data: Record<string, unknown>) => changedElsewhere(Number(data.index), Number(data.revision));

function jobChanged(data: Record<string, unknown>): void {
  const job = data as unknown as Job;
  takeJob(job);
  if (job.state === "running") return;
  generation.value++;
  void loadProject();
  if (image.value) void open(image.value.index, true);
}

async function begin(): Promise<void> {
  render(<App />, document.getElementById("app")!);
  addEventListener("keydown", (event) => { if (!helpOpen.value || event.key === "?" ) handleKey(event); });
  await loadProject();
  await Promise.all([open(Number(location.hash.slice(1)) || 0), loadJobs()]);
  listen({ job: jobChanged, image: changed, saved: () => void loadProject() });
}

void begin();
