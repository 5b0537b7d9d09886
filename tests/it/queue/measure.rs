//! Figures, not checks: `cargo test -p tests --test it measures -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures and checks nothing"]
async fn measures_the_queue() {
    let redis = redis(Options::default()).await;
    let queue = queue(&redis);

    let pushed = hints(20_000);
    let began = Instant::now();
    queue.push(&step(), &pushed).await.unwrap();
    eprintln!("push: {:.0}/s", 20_000.0 / began.elapsed().as_secs_f64());

    let mut consuming = Consuming::start(&queue, 50);
    let (began, busy) = (Instant::now(), cpu(&redis));
    consuming.tokens(20_000).await;
    let (took, used) = (began.elapsed().as_secs_f64(), cpu(&redis) - busy);
    eprintln!("one worker, nothing to do per hint: {:.0}/s, {:.2} CPU-s per 10,000", 20_000.0 / took, used / 2.0);

    let mut starts = Vec::new();
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let pushed = Instant::now();
        queue.push(&step(), &hints(1)).await.unwrap();
        consuming.next().await;
        starts.push(pushed.elapsed());
    }
    starts.sort();
    eprintln!("push to handler, idle worker: median {:?}, 99 % {:?}", starts[150], starts[297]);

    let busy = cpu(&redis);
    tokio::time::sleep(Duration::from_secs(10)).await;
    eprintln!("idle, one worker and Redis: {:.2} % of one CPU", (cpu(&redis) - busy) * 10.0);
}

/// CPU seconds of this process and of Redis so far.
fn cpu(redis: &Redis) -> f64 {
    let of = |pid: String| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<f64> =
            stat.rsplit(')').next().unwrap().split(' ').filter_map(|field| field.parse().ok()).collect();
        // After the state come utime and stime at places 11 and 12 of the numbers, in hundredths of a second.
        (fields[10] + fields[11]) / 100.0
    };
    of("self".to_owned()) + of(redis.pid().to_string())
}
