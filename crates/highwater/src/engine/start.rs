//! The engine's start: from the identity and the store to the tasks that run as long as it does.

use std::sync::{Arc, Mutex};

use highwater_core::InstanceId;
use highwater_core::wire::{Hello, PROTOCOL};
use highwater_net::{Net, NetConfig, Sockets, System};
use highwater_store::{Store, StoreError};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::{
    Checks, Engine, HAPPENINGS_MAX, Inner, Links, StartError, Warnings, Watchdog, blocking, checks,
    health, keep_a_lookout, listen,
};
use crate::cluster::actor::{self, Actor};
use crate::cluster::memory::Memory;
use crate::cluster::{Cluster, TaskEnd};
use crate::config::Config;
use crate::counters::Counters;
use crate::home::{Home, Identity};
use crate::lines::{self, Lines};
use crate::lookout::Lookout;
use crate::report;
use crate::share::Surroundings;

impl Engine {
    /// Starts the node of `home`, whose lock the caller holds, in a runtime that `began` then.
    ///
    /// # Errors
    /// What stands in the way. Nothing runs then.
    pub async fn start(home: Home, config: Config, began: Instant) -> Result<Engine, StartError> {
        Self::start_over(Arc::new(System), home, config, began).await
    }

    /// As [`Engine::start`], with connections from elsewhere than the system's TCP.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub async fn start_over(
        sockets: Arc<dyn Sockets>,
        home: Home,
        config: Config,
        began: Instant,
    ) -> Result<Engine, StartError> {
        let identity = Identity::load(&home.identity_dir())?;
        let node = identity.node_id();
        let (dir, listed) = (home.store_dir(), config.clone());
        let store = blocking(move || {
            let store = Store::open(&dir)?;
            drop_removed_shares(&store, &listed)?;
            Ok::<_, StartError>(store)
        })
        .await?;
        let memory = remember(&home).await?;
        let removed = memory.orders.iter().map(|order| order.decision());
        let removed = removed.filter(|order| order.removed).map(|order| order.target).collect();
        let (cluster, task) = Cluster::new(removed);
        let net_config = NetConfig { listen: config.listen.sync, hello: hello(&config)?, began };
        let (net, events) = Net::start_over(sockets, net_config, identity, Vec::new()).await?;
        let around = Surroundings {
            node,
            store: Arc::new(store),
            counters: Arc::new(Counters::default()),
            transfers: Arc::default(),
            changes: Arc::new(watch::Sender::default()),
        };
        let lookout = Lookout::new(home.clone());
        let checks = Checks::new(home.checks_dir());
        let inner = Arc::new(Inner {
            home,
            node,
            net,
            cluster,
            lines: Lines::default(),
            around,
            desks: Arc::default(),
            links: Links::default(),
            checks,
            warnings: Warnings::default(),
            watchdog: Watchdog::default(),
            happenings: broadcast::Sender::new(HAPPENINGS_MAX),
            config: Mutex::new(config.clone()),
            lookout,
            shares: tokio::sync::Mutex::default(),
            started: Instant::now(),
        });
        for share in &config.shares {
            let started = inner.start_share(share, &config).await;
            started.map_err(|error| StartError::System(error.to_string()))?;
        }
        inner.begin_cluster(task, memory)?;
        tokio::spawn(listen(Arc::downgrade(&inner), events));
        tokio::spawn(lines::watch(Arc::downgrade(&inner)));
        tokio::spawn(health::watch(Arc::downgrade(&inner)));
        tokio::spawn(keep_a_lookout(inner.net.began(), Arc::downgrade(&inner)));
        inner.set_peers();
        inner.resume_checks();
        tokio::spawn(checks::scrub(Arc::downgrade(&inner)));
        Ok(Engine(inner))
    }
}

impl Inner {
    /// Signs this node's card and starts the task that keeps up with the cluster.
    fn begin_cluster(self: &Arc<Self>, task: TaskEnd, memory: Memory) -> Result<(), StartError> {
        let facts = actor::facts(self, &self.config(), memory.incarnation);
        let own = self.net.seal_card(facts);
        let own = own.ok_or_else(|| StartError::System("this node's key signs nothing".into()))?;
        tokio::spawn(Actor::new(self, task, own, memory).run());
        Ok(())
    }
}

/// What is remembered of the cluster, with this start's incarnation, which is durable already.
async fn remember(home: &Home) -> Result<Memory, StartError> {
    let path = home.members_path();
    let remembered = blocking(move || {
        let mut memory = Memory::load(&path);
        memory.incarnation += 1;
        memory.save(&path).map(|()| memory)
    });
    remembered.await.map_err(|error| {
        StartError::System(format!("cannot save the cluster's members in the home: {error}"))
    })
}

/// Forgets what is known of shares that are not in the configuration any more.
fn drop_removed_shares(store: &Store, config: &Config) -> Result<(), StoreError> {
    for name in store.shares()? {
        if config.share(&name).is_none() {
            store.drop_share(&name)?;
        }
    }
    Ok(())
}

fn hello(config: &Config) -> Result<Hello, StartError> {
    let mut instance = [0; 16];
    getrandom::fill(&mut instance)
        .map_err(|error| StartError::System(format!("no random numbers: {error}")))?;
    Ok(Hello {
        protocol: PROTOCOL,
        version: report::VERSION.to_owned(),
        name: config.node.name.clone(),
        user: config.node.user.clone(),
        instance: InstanceId(instance),
    })
}
