// An extension of JupyterLab and of Voilà as they load it, without a build.
//
// JupyterLab runs nothing when a notebook is opened, and forgets its widgets with the page. Here explore.ipynb comes up by
// itself: a kernel that has the panels is asked for them, so that they are as they were, and any other runs the notebook.

const VIEW = "application/vnd.jupyter.widget-view+json";
const PLACE = "avcil-playground"; // the cell that was active before a reload

async function bringUp(app, { content, context, sessionContext }) {
  await Promise.all([context.ready, sessionContext.ready]);
  if (!sessionContext.session?.kernel) return;
  const cells = [...content.model.cells].filter((cell) => cell.type === "code");
  const panels = new Map(cells.map((cell) => [cell.sharedModel.source.match(/^(\w+)$\s*(?![\s\S])/m)?.[1], cell]));
  panels.delete(undefined);
  const expressions = Object.fromEntries([...panels.keys()].map((name) => [name, name]));
  const asked = { code: "", silent: true, user_expressions: expressions };
  const { content: reply } = await sessionContext.session.kernel.requestExecute(asked).done;
  const there = Object.entries(reply.user_expressions).filter(([, answer]) => answer.data?.[VIEW]);
  if (there.length) {
    for (const [name, { data, metadata }] of there) {
      const cell = panels.get(name);
      cell.trusted = true;
      cell.outputs.fromJSON([{ output_type: "display_data", data, metadata }]);
    }
  } else {
    await app.commands.execute("notebook:run-all-cells");
  }
  context.model.dirty = false; // looking changes no file
  const heading = [...content.model.cells].indexOf([...panels.values()][0]) - 1;
  const place = Number(sessionStorage.getItem(PLACE) ?? heading);
  content.activeCellIndex = place;
  await content.scrollToItem(place);
  content.widgets[place].node.scrollIntoView();
  content.activeCellChanged.connect(() => sessionStorage.setItem(PLACE, content.activeCellIndex));
}

// Pictures and sliders get names for screen readers.
function nameThem() {
  for (const image of document.querySelectorAll(".widget-image:not([alt])")) {
    const name = [...image.classList].find((one) => one.startsWith("alt-"));
    if (name) image.alt = name.slice(4).replaceAll("-", " ");
  }
  for (const handle of document.querySelectorAll(".noUi-handle:not([aria-label])")) {
    const label = handle.closest(".widget-inline-hbox")?.querySelector("label");
    if (label?.innerText) handle.ariaLabel = label.innerText;
  }
}

// A server closes the connection on a message that is larger than it takes, and nobody is told. What a file is chosen
// with stands in no document, so that it is met where it is pressed.
const LIMIT = 200; // MB, as in clip.py

function refuseLarge(event) {
  const [file] = event.target.files;
  if (!(file?.size > LIMIT * 1e6)) return;
  event.stopImmediatePropagation();
  const size = Math.ceil(file.size / 1e6);
  alert(`${file.name}: ${size} MB, and at most ${LIMIT} MB can be uploaded; give its path under "own clip" instead`);
}

function watchUploads() {
  const { click } = HTMLInputElement.prototype;
  HTMLInputElement.prototype.click = function () {
    if (this.accept === "video/*") this.addEventListener("change", refuseLarge, { capture: true }); // before the widget
    click.call(this);
  };
}

const plugin = {
  id: "avcil-playground:plugin",
  autoStart: true,
  activate: (app) => {
    watchUploads();
    new MutationObserver(nameThem).observe(document, { childList: true, subtree: true });
    const known = new WeakSet();
    app.shell.currentChanged?.connect((_, { newValue: widget }) => {
      if (/(^|\/)explore\.ipynb$/.test(widget?.context?.path) && widget.content.model && !known.has(widget)) {
        known.add(widget);
        app.shell.collapseLeft();
        bringUp(app, widget);
      }
    });
  },
};

(window._JUPYTERLAB ??= {})["avcil-playground"] = { init: () => {}, get: async () => () => ({ __esModule: true, default: plugin }) };
