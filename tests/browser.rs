//! The master's page in a real browser.

use crate::support::browser::{Browser, submit};
use crate::support::process::example;
use crate::support::{Cluster, Rows};
use serde_json::json;
use std::time::Duration;

#[test]
fn a_browser_submits_a_job_and_sees_its_stages_its_objective_and_where_its_rows_were() {
    let cluster = Cluster::start(2, 2);
    let rows = Rows::generate(5, 400, 200, 12).write(cluster.folder(), "rows.libsvm");
    let mut browser = Browser::open(&format!("http://{}/", cluster.pages));
    browser.until("$('slots').innerText.includes('h1') && $('slots').innerText.includes('h2')");
    // What users call themselves is text, whatever it looks like.
    let user = "<img src=x onerror=alert(1)>";
    let sleep = submit(&mut browser, "sleep", user, &json!({ "stage": ["wide:4:4", "narrow:1:0.5"], "rounds": 2 }));
    browser.until(&format!("document.querySelector('[data-run=\"j{sleep} wide\"].now')"));
    let svrg = submit(&mut browser, "svrg", user, &json!({ "input": [rows], "epochs": 4 }));
    browser.until(&format!("$('queue').innerText.includes('j{svrg}') || $('jobs').innerText.includes('j{svrg}')"));
    browser.screenshot("page-running");
    browser.until(&format!("$('name').textContent === 'j{svrg} svrg' && $('state').textContent === 'done'"));
    browser.until(&format!("document.querySelector('#timeline [data-run=\"j{svrg} stochastic\"]')"));
    browser.until("document.querySelector('#objective path').getAttribute('d').split('L').length === 4");
    browser.until("$('locality').textContent.includes(' rows, ')");
    browser.until("$('detail').innerText.includes('full-gradient')");
    browser.until(&format!("document.querySelector('#timeline [data-run=\"j{sleep} narrow\"]:not(.now)')"));
    browser.screenshot("page-done");
    assert_eq!(browser.value("document.querySelectorAll('img').length"), 0);
    browser.until(&format!("$('jobs').innerText.includes({})", json!(user)));
    assert_eq!(browser.complaints(), [] as [String; 0]);
}

#[test]
fn a_browser_shows_the_cause_of_a_failed_job_and_the_log_of_the_slave_where_it_failed() {
    let cluster = Cluster::of(&example("failing_job"), 2, 2, &[]);
    let mut browser = Browser::open(&format!("http://{}/", cluster.pages));
    let job = submit(&mut browser, "failing", "ann", &json!({ "panic-in": 2, "threads": 4 }));
    browser.until("$('cause') && $('cause').textContent.includes('panicked: out of ideas')");
    browser.until("$('cause').textContent.includes('epoch 2 stage work worker 3 on h2') || $('cause').textContent.includes('worker 3 on h1')");
    browser.until("$('log').textContent.includes('a worker panicked')");
    browser.until(&format!("document.querySelector('tr[data-job=\"{job}\"] .failed')"));
    browser.screenshot("page-failed");
    let waiting = submit(&mut browser, "failing", "ann", &json!({ "threads": 4, "until": "/no/such/file" }));
    browser.until(&format!("document.querySelector('[data-run=\"j{waiting} work\"].now')"));
    let behind = submit(&mut browser, "failing", "bob", &json!({ "threads": 3 }));
    browser.until("$('queue').innerText.includes('needs 3 slots, 0 of 4 are free')");
    browser.screenshot("page-waiting");
    browser.value(&format!("choose({waiting})"));
    browser.until(&format!("$('name').textContent === 'j{waiting} failing' && $('cancel')"));
    browser.value("$('cancel').click()");
    browser.until("$('state') && $('state').textContent === 'cancelled'");
    browser.until(&format!("document.querySelector('tr[data-job=\"{behind}\"] .done')"));
    assert_eq!(browser.complaints(), [] as [String; 0]);
}

#[test]
fn what_is_clicked_slowly_is_clicked_and_the_keyboard_stays_where_it_is() {
    let cluster = Cluster::start(1, 2);
    let mut browser = Browser::open(&format!("http://{}/", cluster.pages));
    let [first, second] = [1, 2].map(|_| submit(&mut browser, "sleep", "ann", &json!({ "stage": ["work:1:1000"] })));
    browser.until(&format!("$('name').textContent === 'j{second} sleep'"));
    browser.until("view.running.length === 2");
    // Longer than the page goes without being drawn.
    let long = Duration::from_millis(1200);
    browser.press(&format!("tr[data-job=\"{first}\"] td"), long);
    browser.until(&format!("chosen === {first} && $('name').textContent === 'j{first} sleep'"));
    // It is drawn again behind that.
    let row = format!("document.querySelector('tr[data-job=\"{first}\"]')");
    browser.value(&format!("window.before = {row}, before.focus(), 1"));
    browser.until(&format!("{row} !== before && {row} === document.activeElement"));
    browser.press("#cancel", long);
    browser.until("$('state').textContent === 'cancelled' && !$('cancel')");
    browser.until(&format!("document.querySelector('tr[data-job=\"{second}\"] .running')"));
    assert_eq!(browser.complaints(), [] as [String; 0]);
}

#[test]
fn a_timeline_has_so_many_boxes_and_no_more_however_many_runs_there_were() {
    let cluster = Cluster::start(1, 2);
    let mut browser = Browser::open(&format!("http://{}/", cluster.pages));
    browser.until("view && view.slaves.length === 1 && document.querySelector('#timeline svg')");
    // Of many jobs on several slaves, and of one whose workers ended on one slave before they did on the other.
    let drawn = browser.value(
        "view.seconds = 3600; runs = [];
         for (let i = 0; i < 60000; i++)
           runs.push({ job: i, stage: 's', epoch: 1, start: 3500 + i / 1000, end: 3500.0009 + i / 1000, workers: [[1, 1], [2, 2], [3, 1]] });
         const begun = performance.now(); timeline();
         const count = document.querySelectorAll('#timeline rect').length, took = performance.now() - begun;
         runs = [{ job: 7, stage: 'half', epoch: 1, start: 3500, end: 3590, ends: [3530, 3590], workers: [[1, 1], [2, 1]] }]; timeline();
         [count, took, ...[...document.querySelectorAll('[data-run=\"j7 half\"]')].map(box => Number(box.getAttribute('width')))]",
    );
    let number = |at: usize| drawn[at].as_f64().unwrap();
    assert!((100.0..5000.0).contains(&number(0)) && number(1) < 20_000.0, "{drawn}");
    assert!((number(3) / number(2) - 3.0).abs() < 0.01, "{drawn}");
    assert_eq!(browser.complaints(), [] as [String; 0]);
}
