// Opens pages with the script of examples/browser in headless Chromium, each in a profile of its own, and follows a task in each.
// Prints a line of JSON for whatever a page tells: {"page", "number"} for an event, {"page", "state"} for a state.
//
// node follow.mjs CHROMIUM FOLDER GATEWAY TOKEN TASK PAGE...
import { readFile } from "node:fs/promises";
import { chromium } from "playwright-core";

const [executablePath, folder, gateway, token, task, ...pages] = process.argv.slice(2);
const tell = (told) => console.log(JSON.stringify(told));
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
try {
  const ends = pages.map(async (url, page) => {
    const context = await browser.newContext();
    const tab = await context.newPage();
    let ended;
    const end = new Promise((resolve) => (ended = resolve));
    tab.on("pageerror", (error) => tell({ page, error: String(error) }));
    await context.exposeFunction("told", (what) => {
      tell({ page, ...what });
      if (what.state === "ended") ended();
    });
    // A page of the gateway's own origin, as if somebody had put it there.
    await tab.route(`${gateway}/follow/*`, async (route) => {
      const name = new URL(route.request().url()).pathname.split("/").pop();
      const contentType = name.endsWith(".js") ? "text/javascript" : "text/html";
      await route.fulfill({ body: await readFile(`${folder}/${name}`), contentType });
    });
    await tab.goto(url);
    await tab.evaluate(
      async ([gateway, token, task]) => {
        const { follow } = await import("./follow.js");
        await follow(gateway, token, task, {
          event: (event) => window.told({ number: event.number }),
          state: (state) => window.told({ state }),
        });
      },
      [gateway, token, task],
    );
    await end;
  });
  await Promise.all(ends);
} finally {
  await browser.close();
}
