//! One world: a policy, a state directory and a backend that outlive many gates, each of which is killed under load.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tollgate::killpoint::KillPoint;

use crate::accounts::{Accounts, Since};
use crate::books::Told;
use crate::carrier::Carrier;
use crate::clients;
use crate::desk::Desk;
use crate::judge::judge;
use crate::operator::Ledger;
use crate::scene::{Door, Scene};
use crate::support::dice::Dice;
use crate::support::disk::Disk;
use crate::support::frail::{Frail, attempt};
use crate::support::process::{Launch, Process};
use crate::support::{Policy, Request};
use crate::tally::{Promise, Tally};
use crate::terms::{self, VICTIM};

/// Clients that send at the same time.
const CLIENTS: usize = 6;
/// How long a gate under load may take to come to its kill point.
const TOO_LONG: Duration = Duration::from_secs(30);
/// A point is passed at most so often before the gate dies there.
const DEEPEST: u64 = 60;

/// After so many deaths a person looks at what they left in doubt.
const DOUBTS_OF: usize = 8;

/// How gates die in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// By themselves, at this place.
    At(KillPoint),
    /// By a signal, while the backend has a request and has not answered it.
    UnderWay,
    /// By a signal, at any time.
    AnyTime,
    /// With the machine, at any time: what was not synced may be gone.
    PowerCut,
}

impl Death {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Death::At(point) => point.name(),
            Death::UnderWay => "under way",
            Death::AnyTime => "any time",
            Death::PowerCut => "power cut",
        }
    }
}

/// Lets so many gates die, and says what was found.
pub(crate) fn survive(death: Death, crashes: usize) -> Tally {
    let tenants = crashes / 2 + 1;
    let policy = terms::policy(tenants);
    let home = TempDir::new().expect("there is room for a directory");
    let state = home.path().join("state");
    let disk = Disk::under(&state);
    let carrier = Carrier::start();
    let scene = Scene::with(CLIENTS + 1);
    let ledger = Ledger::default();
    let world = World {
        death,
        address: address(),
        policy: &policy,
        state: &state,
        disk: &disk,
        carrier: &carrier,
        scene: &scene,
    };
    thread::scope(|scope| {
        for client in 0..CLIENTS as u64 {
            let dice = Dice::named(death.name(), client);
            let scene = &scene;
            scope.spawn(move || clients::live(scene, dice));
        }
        let dice = Dice::named(death.name(), 1000);
        let (scene_of, ledger_of) = (&scene, &ledger);
        scope.spawn(move || ledger_of.keep(scene_of, dice));
        let _home = SendsHome(&scene);
        world.run(crashes, tenants, &ledger)
    })
}

/// An address that no other world has.
fn address() -> Ipv4Addr {
    static WORLDS: AtomicU8 = AtomicU8::new(1);
    Ipv4Addr::new(127, 0, 1, WORLDS.fetch_add(1, Ordering::Relaxed))
}

/// Ends the world even when a check fails halfway.
struct SendsHome<'a>(&'a Scene);

impl Drop for SendsHome<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

struct World<'a> {
    death: Death,
    address: Ipv4Addr,
    policy: &'a Policy,
    state: &'a Path,
    disk: &'a Disk,
    carrier: &'a Carrier,
    scene: &'a Scene,
}

impl World<'_> {
    fn run(&self, crashes: usize, tenants: usize, ledger: &Ledger) -> Tally {
        let mut tally = Tally::default();
        let mut accounts = Accounts::default();
        let mut dice = Dice::named(self.death.name(), 2000);
        for boot in 0..crashes {
            if boot % DOUBTS_OF == DOUBTS_OF - 1 {
                self.settle(tenants, &mut accounts, ledger, &mut tally);
            }
            self.scene.tenant.store(boot / 2, Ordering::SeqCst);
            let launch = self.launch();
            let gate = match self.death {
                Death::At(point) => {
                    let nth = 1 + dice.below(DEEPEST);
                    launch.with("TOLLGATE_KILL", &format!("{}:{nth}", point.name())).start()
                }
                Death::AnyTime | Death::UnderWay => launch.start(),
                Death::PowerCut => self.disk.carry(&launch).start(),
            };
            // Looks before anybody sends: what is there now is what survived.
            let since = Since { crashes: u64::from(boot > 0), under_way: CLIENTS as u64 };
            self.audit(&gate, tenants, since, &mut accounts, ledger, &mut tally);
            if self.death == Death::UnderWay {
                self.carrier.trap(gate.pid(), 1 + dice.below(DEEPEST / 2));
            }
            self.scene.open(Door { boot, traffic: gate.traffic, admin: gate.admin });
            self.die(gate, &mut dice);
            assert!(self.scene.close(), "a client hangs");
            assert!(self.carrier.settles(), "a dead gate's connections stay open");
            if self.death == Death::PowerCut {
                assert!(self.disk.syncs() > 0, "the gate writes past this disk");
                self.disk.cut_power(&mut dice);
            }
            tally.crashes += 1;
        }
        self.aftermath(crashes, tenants, &mut accounts, ledger, &mut tally);
        judge(&self.scene.books, &self.carrier.forwards(), &mut tally);
        tally.requests = self.scene.books.requests();
        tally.forwards = self.carrier.forwards().len();
        tally
    }

    fn launch(&self) -> Launch<'_> {
        Launch::new(self.policy, &self.carrier.url(), self.state).on(self.address)
    }

    fn die(&self, mut gate: Process, dice: &mut Dice) {
        match self.death {
            Death::At(_) | Death::UnderWay => {
                let ended = gate.wait_within(TOO_LONG);
                assert!(ended.is_some(), "{}: not passed under load", self.death.name());
            }
            Death::AnyTime | Death::PowerCut => {
                thread::sleep(Duration::from_millis(20 + dice.below(300)));
                gate.kill();
            }
        }
    }

    fn audit(
        &self,
        gate: &Process,
        tenants: usize,
        since: Since,
        accounts: &mut Accounts,
        ledger: &Ledger,
        tally: &mut Tally,
    ) {
        let desk = Desk::at(gate.admin);
        accounts.audit(&desk, tenants, &self.carrier.forwards(), since, tally);
        let request = Request::get("/closed").bearer(VICTIM.1);
        let answer = attempt(gate.traffic, &request);
        let told = Told::of(&answer);
        assert!(told.is("key_revoked") || told.is("address_denied"), "{told:?}");
        ledger.audit(&desk, told.is("key_revoked"), tally);
    }

    /// A gate without a kill point, on which a person settles every doubt before it is killed as well.
    fn settle(&self, tenants: usize, accounts: &mut Accounts, ledger: &Ledger, tally: &mut Tally) {
        let gate = self.launch().start();
        let since = Since { crashes: 1, under_way: CLIENTS as u64 };
        self.audit(&gate, tenants, since, accounts, ledger, tally);
        accounts.settle(&Desk::at(gate.admin), &self.carrier.forwards(), tally);
        gate.kill();
    }

    /// Every key once more with nothing else going on, every doubt settled, and an orderly end.
    fn aftermath(
        &self,
        boot: usize,
        tenants: usize,
        accounts: &mut Accounts,
        ledger: &Ledger,
        tally: &mut Tally,
    ) {
        let gate = self.launch().start();
        let since = Since { crashes: 1, under_way: CLIENTS as u64 };
        self.audit(&gate, tenants, since, accounts, ledger, tally);
        let door = Door { boot, traffic: gate.traffic, admin: gate.admin };
        let mut line = None;
        for send in self.scene.books.sends() {
            let mut open = match line.take() {
                Some(open) => open,
                None => Frail::to(door.traffic).expect("the gate lives"),
            };
            let payload = send.payload.clone();
            if clients::attempt(self.scene, &send, payload, door, &mut open) {
                line = Some(open);
            }
            let last = send.tellings().pop();
            if last.is_some_and(|telling| telling.told.is("idempotency_in_flight")) {
                tally.breach(Promise::Honest, format!("{} is in flight for ever", send.key));
            }
        }
        drop(line);
        let desk = Desk::at(gate.admin);
        let calm = Since { crashes: 0, under_way: 0 };
        accounts.audit(&desk, tenants, &self.carrier.forwards(), calm, tally);
        assert_eq!(gate.stop(), Some(0), "an orderly end");
        let gate = self.launch().start();
        self.audit(&gate, tenants, calm, accounts, ledger, tally);
        accounts.settle(&Desk::at(gate.admin), &self.carrier.forwards(), tally);
        self.audit(&gate, tenants, calm, accounts, ledger, tally);
    }
}
