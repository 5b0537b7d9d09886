//! From the outbox to the collector: a task per service that sends batches, beside the work and
//! never in its way. A collector that is away is one line of log a minute.

use std::{sync::Arc, time::Duration};

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_resource_detectors::{ContainerResourceDetector, HostResourceDetector, K8sResourceDetector};
use opentelemetry_sdk::{
    Resource,
    resource::ResourceDetector,
    trace::{SdkTracer, SdkTracerProvider, SpanData},
};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Exported, Role, Said, Tracers, names,
    otlp::{self, Collector},
    outbox::{Outbox, add},
    sampling::Root,
};

/// What is exported, where to, and as whom.
#[derive(Debug, Clone)]
pub struct Traces {
    /// What this process is called; and its other roles, where each is a service of its own.
    pub service: String,
    pub others: Vec<(Role, String)>,
    /// What else is known of all of them.
    pub attributes: Vec<(String, String)>,
    pub collector: Collector,
    pub root: Root,
    pub batches: Batches,
    pub exported: Arc<Exported>,
}

/// `OTEL_BSP_…`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batches {
    /// Spans that wait at most; what comes on top is dropped.
    pub queue: usize,
    /// Spans of one request at most.
    pub most: usize,
    /// How long a batch waits to fill.
    pub delay: Duration,
    /// How long a batch that was not taken is tried again.
    pub patience: Duration,
}

/// The exporters of a process before its runtime is there.
pub(crate) struct Exporters {
    exporters: Vec<Exporter>,
    exported: Arc<Exported>,
}

/// How long the last spans may take at the end of the process.
const FLUSH: Duration = Duration::from_secs(3);
/// The pause before a batch that was not taken is tried again.
const AGAIN: Duration = Duration::from_secs(1);

impl Traces {
    /// A tracer per service, and what exports what they record.
    pub(crate) fn start(self) -> (Tracers, Exporters) {
        let (first, exporter) = self.service(&self.service);
        let mut exporters = vec![exporter];
        let mut others = Vec::new();
        for (role, service) in &self.others {
            let (tracer, exporter) = self.service(service);
            others.push((*role, tracer));
            exporters.push(exporter);
        }
        (Tracers { first, others }, Exporters { exporters, exported: self.exported })
    }

    fn service(&self, name: &str) -> (SdkTracer, Exporter) {
        let (queue, spans) = mpsc::channel(self.batches.queue);
        let resource = self.resource(name);
        let exporter = Exporter {
            spans,
            resource: ResourceAttributesWithSchema::from(&resource),
            collector: self.collector.clone(),
            batches: self.batches,
            exported: self.exported.clone(),
            said: Said::default(),
        };
        let provider = SdkTracerProvider::builder()
            .with_sampler(self.root)
            .with_resource(resource)
            .with_span_processor(Outbox { queue, exported: self.exported.clone() })
            .build();
        (provider.tracer("sluice"), exporter)
    }

    /// What the service says of itself; an attribute that was set stands before ours.
    fn resource(&self, service: &str) -> Resource {
        let ours = [
            (names::SERVICE_VERSION, env!("CARGO_PKG_VERSION").to_owned()),
            (names::SERVICE_INSTANCE, uuid::Uuid::new_v4().to_string()),
            ("telemetry.sdk.name", "opentelemetry".to_owned()),
            ("telemetry.sdk.language", "rust".to_owned()),
        ];
        let given = self.attributes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        // The kernel knows the host's name; an image need not have the program that the detector
        // asks.
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Resource::builder_empty()
            .with_attribute(KeyValue::new(names::HOST_NAME, host))
            .with_detectors(&where_it_runs())
            .with_attributes(ours.map(|(key, value)| KeyValue::new(key, value)))
            .with_attributes(given)
            .with_service_name(service.to_owned())
            .build()
    }
}

/// The machine, the container and the pod, as far as each is known. Spans of one host are not moved
/// for the skew of clocks.
fn where_it_runs() -> Vec<Box<dyn ResourceDetector>> {
    let mut detectors: Vec<Box<dyn ResourceDetector>> =
        vec![Box::new(HostResourceDetector::default()), Box::new(ContainerResourceDetector)];
    // The detector takes every host's name for a pod's.
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        detectors.push(Box::new(K8sResourceDetector));
    }
    detectors
}

impl Exporters {
    /// Exports beside this work. Then sends what is left, but holds nobody up for long, and says
    /// what became of it all.
    pub(crate) async fn beside<T>(self, work: impl Future<Output = T>) -> T {
        let (mut tasks, closing) = (JoinSet::new(), CancellationToken::new());
        for exporter in self.exporters {
            tasks.spawn(exporter.run(closing.clone()));
        }
        let worked = work.await;
        closing.cancel();
        let done = async { while tasks.join_next().await.is_some() {} };
        let sent = tokio::time::timeout(FLUSH, done).await.is_ok();
        let (exported, dropped, failed) = self.exported.counts();
        match sent && dropped + failed == 0 {
            true => tracing::debug!(exported, "all spans were exported"),
            false if sent => tracing::warn!(exported, dropped, failed, "not all spans were exported"),
            false => tracing::warn!(exported, dropped, failed, "the collector did not take the last spans in time"),
        }
        worked
    }
}

/// Sends what one service recorded.
struct Exporter {
    spans: mpsc::Receiver<SpanData>,
    resource: ResourceAttributesWithSchema,
    collector: Collector,
    batches: Batches,
    exported: Arc<Exported>,
    said: Said,
}

impl Exporter {
    async fn run(mut self, closing: CancellationToken) {
        while let Some(batch) = self.batch(&closing).await {
            self.send(batch, &closing).await;
        }
    }

    /// The next batch: full, or as full as it became in time. None at the end.
    async fn batch(&mut self, closing: &CancellationToken) -> Option<Vec<SpanData>> {
        let mut batch = Vec::new();
        if !self.take(&mut batch, closing).await {
            return None;
        }
        let (most, delay) = (self.batches.most, self.batches.delay);
        let filling = async { while batch.len() < most && self.take(&mut batch, closing).await {} };
        let _ = tokio::time::timeout(delay, filling).await;
        Some(batch)
    }

    /// Takes what there is room for, as soon as there is something. False at the end.
    async fn take(&mut self, batch: &mut Vec<SpanData>, closing: &CancellationToken) -> bool {
        let room = self.batches.most - batch.len();
        loop {
            tokio::select! {
                taken = self.spans.recv_many(batch, room) => return taken > 0,
                () = closing.cancelled(), if !self.spans.is_closed() => self.spans.close(),
            }
        }
    }

    /// Tries again for a while: meanwhile the queue fills, and what it cannot hold is dropped.
    async fn send(&mut self, batch: Vec<SpanData>, closing: &CancellationToken) {
        let (count, began) = (batch.len(), Instant::now());
        let request = otlp::request(batch, &self.resource);
        loop {
            let error = match self.collector.send(request.clone()).await {
                Ok(refused) => {
                    let refused = usize::try_from(refused).unwrap_or(usize::MAX).min(count);
                    add(&self.exported.failed, refused);
                    add(&self.exported.exported, count - refused);
                    return;
                }
                Err(error) => error,
            };
            let over = closing.is_cancelled() || began.elapsed() >= self.batches.patience || !error.may_pass();
            add(&self.exported.failed, if over { count } else { 0 });
            self.say(&error.to_string());
            if over {
                return;
            }
            closing.run_until_cancelled(tokio::time::sleep(AGAIN)).await;
        }
    }

    /// Once a minute, whatever the error.
    fn say(&mut self, error: &str) {
        let collector = self.collector.address();
        if !self.said.is_news(&collector) {
            return;
        }
        let (exported, dropped, failed) = self.exported.counts();
        tracing::warn!(collector, error, exported, dropped, failed, "spans are lost; the work goes on without them");
    }
}
