"""Pages in a headless browser: they open without an error, sort, filter and draw.

page_test.py REHEARSE SOURCE_DIR [--screenshot FILE]. Exit code 77: Chromium or Selenium is missing.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

SKIPPED = 77

try:
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
except ImportError:
    print("skipped: python3-selenium is not there")
    sys.exit(SKIPPED)


def browser(width, height):
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars",
                     "--disable-background-networking", "--disable-component-update",
                     # Whatever is not in the file is not there.
                     "--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},{height}"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        service = webdriver.chrome.service.Service("/usr/bin/chromedriver")
        return webdriver.Chrome(service=service, options=options)
    except (WebDriverException, OSError) as error:
        print(f"skipped: no Chromium: {error}")
        sys.exit(SKIPPED)


class Page:
    def __init__(self, driver, path):
        self.driver = driver
        driver.get(f"file://{path}")
        self.check(driver.find_element(By.TAG_NAME, "body").get_attribute("data-drawn") == "yes",
                   f"{path.name} was not drawn to its end")
        errors = [e for e in driver.get_log("browser") if e["level"] != "INFO"]
        self.check(not errors, f"{path.name}: the console says {errors}")
        asked = driver.execute_script("return performance.getEntriesByType('resource').length")
        self.check(asked == 0, f"{path.name} asked for {asked} other files")

    def check(self, holds, what):
        if not holds:
            raise AssertionError(what)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def column(self, table, index):
        return self.driver.execute_script(
            "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)]"
            ".map((r) => r.children[arguments[1]].textContent)", table, index)

    def numbers(self, table, index):
        return [float(t.replace(",", "").rstrip("%")) for t in self.column(table, index)]

    def sort(self, table, index):
        self.driver.find_elements(By.CSS_SELECTOR, f"#{table} th button")[index].click()

    def drawn(self, canvas):
        """Share of a chart's pixels that are not empty."""
        return self.driver.execute_script("""
            const c = document.getElementById(arguments[0]);
            const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
            let n = 0;
            for (let i = 3; i < d.length; i += 4) n += d[i] > 0;
            return n * 4 / d.length;""", canvas)

    def charts(self, *canvases):
        for canvas in canvases:
            self.check(self.drawn(canvas) > 0.01, f"the chart {canvas} is empty")


# What a heat map writes while it is drawn again: text, and its box in the canvas's own pixels.
WRITTEN = """
    const c = document.getElementById(arguments[0]), found = [];
    const g = CanvasRenderingContext2D.prototype, plain = g.fillText;
    g.fillText = function (text, x, y) {
      const t = this.getTransform(), ratio = window.devicePixelRatio || 1, m = this.measureText(text);
      if (this.canvas === c && t.b === 0) {
        found.push({text, x: (t.a * x + t.e) / ratio, y: (t.d * y + t.f) / ratio, align: this.textAlign,
                    left: m.actualBoundingBoxLeft, right: m.actualBoundingBoxRight,
                    up: m.actualBoundingBoxAscent, down: m.actualBoundingBoxDescent});
      }
      plain.call(this, text, x, y);
    };
    window.dispatchEvent(new Event("resize"));
    g.fillText = plain;
    return {written: found, width: c.clientWidth, height: c.clientHeight};"""
# What it says of the place under the pointer.
POINTED = """
    const c = document.getElementById(arguments[0]), box = c.getBoundingClientRect();
    c.dispatchEvent(new MouseEvent("mousemove", {clientX: box.left + arguments[1], clientY: box.top + arguments[2]}));
    return c.title;"""


def check_heatmap(page, canvas, columns, rows, told):
    """Numbers of the first and last column and row stand at these, whole, none over another.

    columns, rows: their names. told: of column and row, what the map says of the place.
    """
    drawn = page.driver.execute_script(WRITTEN, canvas)
    numbers = [w for w in drawn["written"] if w["text"].lstrip("-").isdigit()]
    across = [w for w in numbers if w["align"] == "center"]
    down = [w for w in numbers if w["align"] == "right"]
    boxes = []
    for w in numbers:
        box = (w["x"] - w["left"], w["y"] - w["up"], w["x"] + w["right"], w["y"] + w["down"])
        page.check(box[0] >= 0 and box[1] >= 0 and box[2] <= drawn["width"] and box[3] <= drawn["height"],
                   f"{canvas}: {w['text']} is cut off: {box} of {drawn['width']} x {drawn['height']}")
        for other in boxes:
            page.check(box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1],
                       f"{canvas}: {w['text']} is written over another")
        boxes.append(box)
    page.check([across[0]["text"], across[-1]["text"]] == [str(columns[0]), str(columns[-1])],
               f"{canvas}: columns from {across[0]['text']} to {across[-1]['text']}")
    page.check([down[0]["text"], down[-1]["text"]] == [str(rows[0]), str(rows[-1])],
               f"{canvas}: rows from {down[0]['text']} to {down[-1]['text']}")
    # Each number stands in the middle of what it names, as far as whole pixels tell.
    for w in across if len(columns) < drawn["width"] / 2 else []:
        for r in down:
            middle = r["y"] - (r["up"] - r["down"]) / 2
            said = page.driver.execute_script(POINTED, canvas, w["x"], middle)
            page.check(said.startswith(told(w["text"], r["text"])), f"{canvas}: at {w['text']}, {r['text']}: '{said}'")


def with_load(page, layers, experts):
    """The page with the load of so many layers, by their numbers, and experts."""
    begin = page.index(">", page.index('id="report"')) + 1
    end = page.index("</script>", begin)
    report = json.loads(page[begin:end])
    count = len(layers)
    report["layer_numbers"] = layers
    report["expert_load"] = {"rows": count, "columns": experts,
                             "values": [(r + k) % 3 for r in range(count) for k in range(experts)]}
    report["load_over_time"] = {"rows": count, "columns": len(report["step_numbers"]),
                                "values": [1.5] * (count * len(report["step_numbers"]))}
    return page[:begin] + json.dumps(report).replace("<", "\\u003c") + page[end:]


def check_plan(driver, path, answer):
    page = Page(driver, path)
    rows = page.column("layouts", 0)
    page.check(len(rows) == answer["layouts_simulated"], f"{len(rows)} rows")
    page.check(page.numbers("layouts", 3)[0] == round(answer["best"][0]["step_time_s"], 2),
               "the first row's step is not the answer's")
    page.sort("layouts", 9)  # GB
    gb = page.numbers("layouts", 9)
    page.check(gb == sorted(gb) and gb[0] < gb[-1], "not sorted by memory")
    page.sort("layouts", 9)
    page.check(page.numbers("layouts", 9) == gb[::-1], "not sorted the other way")
    # Rows are chosen by a click, and filtered by words.
    first = page.one("#chosen").text
    page.driver.find_elements(By.CSS_SELECTOR, "#layouts tbody tr")[0].click()
    page.check(page.one("#chosen").text != first, "a click chooses nothing")
    page.one("#filter").send_keys("1f1b pp2")
    kept = page.column("layouts", 1)
    page.check(0 < len(kept) < len(rows), f"filtered to {len(kept)} of {len(rows)}")
    page.check(all("1f1b" in k and "PP2" in k for k in kept), f"filtered to {kept}")
    page.check(page.one("#count").text == f"{len(kept)} of {len(rows)}", page.one("#count").text)
    page.one("#filter").send_keys(Keys.CONTROL, "a", Keys.DELETE)
    page.check(len(page.column("layouts", 0)) == len(rows), "the filter stays")
    page.sort("layouts", 0)
    page.driver.find_elements(By.CSS_SELECTOR, "#layouts tbody tr")[0].click()
    page.charts("pareto", "memory", "parts", "sensitivities", "timeline", "memory-one")
    page.check(page.one("#command").text == answer["best"][0]["command"], "another command")
    # On a phone nothing but tables is wider than the screen.
    driver.set_window_size(390, 844)
    page = Page(driver, path)
    wide = driver.execute_script("return document.documentElement.scrollWidth")
    page.check(wide <= 510, f"{wide} pixels wide on a phone")  # Chromium has no narrower window
    driver.set_window_size(1280, 1600)


def seconds_of(text):
    """The time that a cell shows, such as "1.234 ms" or "-12.3 µs"."""
    number, unit = text.split()
    return float(number) * {"s": 1, "ms": 1e-3, "µs": 1e-6}[unit]


def check_compare(driver, path, answer):
    page = Page(driver, path)
    page.charts("predicted", "measured")
    kinds = answer["ops_by_kind"]
    names = page.column("ops-by-kind", 0)
    page.check(len(names) > 5, "no ops")
    heads = [h.text.split("\n")[0] for h in driver.find_elements(By.CSS_SELECTOR, "#ops-by-kind th")]
    column = {head: page.column("ops-by-kind", i) for i, head in enumerate(heads)}
    for row, name in enumerate(names):
        # A count is a count, a time a time, an error a signed share.
        page.check(column["ops"][row] == f"{kinds[name]['ops']:,}", f"{name}: {column['ops'][row]} ops")
        for head in ["predicted", "measured", "difference"]:
            shown, there = seconds_of(column[head][row]), kinds[name][f"{head}_s"]
            page.check(abs(shown - there) <= 0.006 * abs(there), f"{name}: {head} {column[head][row]}, not {there}")
        error = kinds[name]["error"]
        wanted = "-" if error is None else f"{100 * error:+.1f}%"
        page.check(abs(float(column["error"][row].rstrip("%")) - 100 * error) < 0.06 if error is not None
                   else column["error"][row] == wanted, f"{name}: error {column['error'][row]}, not {wanted}")
        page.check(column["error"][row][0] in "+-0", f"{name}: an error without a sign")
    # Both timelines on one axis, which holds the longer step.
    ends = driver.execute_script("return ['predicted', 'measured'].map((id) => Chart.getChart(id).scales.x.max)")
    page.check(ends[0] == ends[1], f"axes end at {ends}")
    longer = 1e3 * max(answer["step_time_predicted_s"], answer["step_time_measured_s"])
    page.check(abs(ends[0] - longer) < 1e-6 * longer, f"axes end at {ends}, the longer step at {longer}")
    lefts = driver.execute_script("return ['predicted', 'measured'].map((id) => Chart.getChart(id).chartArea.left)")
    page.check(lefts[0] == lefts[1], f"axes begin at {lefts}")
    # What must be known before any figure stands first.
    told = [w.text for w in driver.find_elements(By.CSS_SELECTOR, "main > p.warning:first-child, p.warning ~ p.warning")]
    page.check(told == [f"Warning: {w}." for w in answer["warnings"]], f"told {told}, not {answer['warnings']}")
    tiles = {t.text.split("\n")[1]: t.text.split("\n")[0] for t in driver.find_elements(By.CSS_SELECTOR, ".tile")}
    page.check(abs(float(tiles["error of the step"].rstrip("%")) - 100 * answer["step_time_error"]) < 0.06, f"{tiles}")
    page.check(tiles["mean absolute error of ops"][0].isdigit(), f"an absolute error with a sign: {tiles}")
    return tiles


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rehearse")
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("--screenshot", type=pathlib.Path)
    args = parser.parse_args()
    driver = browser(1280, 1600)

    def run(*words):
        done = subprocess.run([args.rehearse, *map(str, words)], capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"{words}: {done.stderr}")
        return done.stdout

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        path = folder / "plan.html"
        question = ["plan", "--model", "deepseek-16b", "--cluster", "h800-2048", "--gpus", 64,
                    "--batch", 512, "--simulate", 60, "--page", path, "--json"]
        if args.screenshot:
            question = ["plan", "--model", "deepseek-v3", "--cluster", "h800-2048", "--batch", 15360,
                        "--precision", "fp8", "--tokens", "14.8T", "--page", path, "--json"]
        answer = json.loads(run(*question))
        if args.screenshot:
            driver.set_window_size(1280, 2300)
            Page(driver, path)
            # Few enough rows that all of the page is seen.
            driver.execute_script("[...document.querySelectorAll('#layouts tbody tr')]"
                                  ".slice(12).forEach((r) => r.remove())")
            driver.save_screenshot(str(args.screenshot))
            return
        check_plan(driver, path, answer)

        plan = args.source / "experiments/demo/plan.yaml"
        text = args.source / "LICENSE"
        path = folder / "simulate.html"
        run("simulate", plan, "--page", path)
        page = Page(driver, path)
        page.charts("timeline", "parts", "memory")
        page.sort("ranks", 1)
        values = page.column("ranks", 0)
        page.check(len(values) > 1, "no ranks")

        run("train", plan, "--data", text, "--steps", 3, "--out", folder / "run")
        path = folder / "compare.html"
        comparison = ["compare", plan, "--measured", folder / "run/timeline.json", "--page", path, "--json"]
        answer = json.loads(run(*comparison))
        tiles = check_compare(driver, path, answer)
        assert answer["calibrated"] is False and "uncalibrated" in answer["warnings"][-1], answer["warnings"]
        assert "step predicted, uncalibrated" in tiles, tiles
        # With a calibration it is not called that.
        run("calibrate", plan, "--no-grid", "--rounds", 1, "--milliseconds", 0.05, "--out", folder / "c.yaml")
        answer = json.loads(run(*comparison, "--calibration", folder / "c.yaml"))
        tiles = check_compare(driver, path, answer)
        assert answer["calibrated"] is True and "step predicted" in tiles, tiles

        trace = folder / "routing.h5"
        run("train", plan, "--data", text, "--steps", 3, "--out", folder / "recorded", "--record-routing", trace)
        path = folder / "replay.html"
        answer = json.loads(run("replay", trace, plan, "--page", path, "--json"))
        page = Page(driver, path)
        page.charts("experts", "over-time", "traffic")
        page.sort("layers", 1)
        page.sort("layers", 1)
        most = [layer["load_max_over_mean"] for layer in answer["layers"]]
        page.check(abs(page.numbers("layers", 1)[0] - max(most)) < 0.01, "not the hottest layer first")
        shown = driver.execute_script("return JSON.parse(document.getElementById('report').textContent)")
        load = shown["expert_load"]
        rows = [load["values"][r * load["columns"]:(r + 1) * load["columns"]] for r in range(load["rows"])]
        page.check(all(abs(sum(row) / len(row) - 1) < 0.01 for row in rows), "loads are not over their mean")
        page.check(shown["load_over_time"]["columns"] == 3, "not every step")
        expert = lambda k, r: f"layer {r}, expert {k}: "
        check_heatmap(page, "experts", range(load["columns"]), shown["layer_numbers"], expert)
        ranks = range(shown["traffic_bytes"]["columns"])
        check_heatmap(page, "traffic", ranks, ranks, lambda k, r: f"ranks {r} to {k}: ")
        # Of sizes that others have: many narrow columns and low rows, one of each, few.
        text = path.read_text()
        for layers, experts in [(list(range(3, 61)), 256), ([7], 1), ([1, 2], 3), (list(range(94)), 1024)]:
            path = folder / "replay-other.html"
            path.write_text(with_load(text, layers, experts))
            for width in (1280, 700):
                driver.set_window_size(width, 1600)
                check_heatmap(Page(driver, path), "experts", range(experts), layers, expert)
    driver.quit()
    print("passed")


main()
