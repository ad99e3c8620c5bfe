//! Who may connect to the broker and what they may say there, asked by the broker for every connection, subscription and
//! publish.
//!
//! A device is its certificate's common name, and reaches its own topics alone. The server's own client comes in over
//! loopback with a secret that is made anew at every start.

use std::net::SocketAddr;

use async_trait::async_trait;
use flotilla_protocol::codec::MAX_MESSAGE_BYTES;
use flotilla_protocol::ids::{DeviceId, Digest};
use flotilla_protocol::topics::{may_publish, may_subscribe};
use rmqtt::codec::v5::SubscribeAckReason;
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType};
use rmqtt::session::Session;
use rmqtt::types::{AuthResult, ConnectInfo, LastWill, Publish, PublishAclResult, Subscribe, SubscribeAclResult};

use crate::broker::active::ActiveDevices;
use crate::broker::presence::PresenceMap;
use crate::clock;
use crate::refusals::Refusals;
use crate::store::Db;

/// The listener that devices reach, and the one on loopback: how the broker tells them apart.
pub(super) const DEVICES: u16 = 1;
pub(super) const LOOPBACK: u16 = 2;
/// Reserved: no device id has a colon.
pub(super) const SERVER_CLIENT: &str = "server:0";

/// A connection that asks to be let in.
#[derive(Debug, Clone, Copy)]
struct Connection<'a> {
    listener: u16,
    client_id: &'a str,
    common_name: Option<&'a str>,
    password: Option<&'a [u8]>,
    /// Topic and retain flag. The broker publishes wills without asking again.
    will: Option<(&'a str, bool)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Peer {
    Server,
    Device(DeviceId),
}

/// Who is it? The reason if it cannot be who it says.
fn identify(connection: &Connection<'_>, secret: Digest) -> Result<Peer, &'static str> {
    match connection.listener {
        LOOPBACK => {
            let right = connection
                .password
                .is_some_and(|password| Digest::of(password) == secret);
            if connection.client_id == SERVER_CLIENT && right {
                Ok(Peer::Server)
            } else {
                Err("the loopback listener is the server's own")
            }
        }
        DEVICES => {
            let common_name = connection
                .common_name
                .ok_or("no client certificate with a common name")?;
            if common_name != connection.client_id {
                return Err("the client id is not the certificate's common name");
            }
            let device = DeviceId::new(common_name).map_err(|_why| "the certificate's common name is no device id")?;
            match connection.will {
                Some((_, true)) => Err("a retained will"),
                Some((topic, false)) if !may_publish(&device, topic) => Err("a will on another's topic"),
                _ => Ok(Peer::Device(device)),
            }
        }
        _ => Err("an unknown listener"),
    }
}

/// May the device publish this?
fn check_publish(device: &DeviceId, topic: &str, retain: bool, length: usize) -> Result<(), &'static str> {
    if retain {
        return Err("retained");
    }
    if length > MAX_MESSAGE_BYTES {
        return Err("too long");
    }
    if !may_publish(device, topic) {
        return Err("not its own topic");
    }
    Ok(())
}

/// Where a connection comes from, for the record. Whose budget a refusal is stays the device's: that is proved by its
/// certificate, and addresses are shared.
fn peer(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "unknown".to_owned(), |address| address.to_string())
}

/// See the module's documentation. Cheap to clone.
#[derive(Clone)]
pub(super) struct Gate {
    active: ActiveDevices,
    db: Db,
    presence: PresenceMap,
    refusals: Refusals,
    secret: String,
}

impl Gate {
    pub(super) fn new(active: ActiveDevices, db: Db, presence: PresenceMap, refusals: Refusals) -> Self {
        let secret: [u8; 32] = rand::random();
        Self {
            active,
            db,
            presence,
            refusals,
            secret: hex::encode(secret),
        }
    }

    /// The password of the server's own client.
    pub(super) fn secret(&self) -> String {
        self.secret.clone()
    }

    async fn authenticate(&self, info: &ConnectInfo) -> AuthResult {
        let will = info.last_will();
        let connection = Connection {
            listener: info.id().lid,
            client_id: info.client_id(),
            common_name: info.cert().and_then(|certificate| certificate.common_name.as_deref()),
            password: info.password().map(AsRef::as_ref),
            will: will.as_ref().map(|will| match will {
                LastWill::V3(will) => (will.topic.as_ref(), will.retain),
                LastWill::V5(will) => (will.topic.as_ref(), will.retain),
            }),
        };
        let refused = match identify(&connection, Digest::of(self.secret.as_bytes())) {
            Ok(Peer::Server) => return AuthResult::Allow(true, None),
            Ok(Peer::Device(device)) => match self.active.admit(&self.db, &device).await {
                Ok(true) => return AuthResult::Allow(false, None),
                Ok(false) => "not enrolled, or decommissioned",
                Err(error) => {
                    tracing::error!(%device, %error, "a device cannot be looked up");
                    return AuthResult::NotAuthorized;
                }
            },
            Err(why) => why,
        };
        let who = connection.common_name.unwrap_or("(none)");
        self.refusals.tell(
            "connect.refused",
            format!("device:{who}"),
            [
                ("client_id", connection.client_id.to_owned()),
                ("peer", peer(info.ipaddress())),
                ("reason", refused.to_owned()),
            ],
        );
        AuthResult::NotAuthorized
    }

    fn publish(&self, session: &Session, publish: &Publish) -> PublishAclResult {
        let active = self.active_device(session);
        let Some(device) = active else {
            return PublishAclResult::rejected(true, None);
        };
        match check_publish(&device, &publish.topic, publish.retain, publish.payload.len()) {
            Ok(()) => PublishAclResult::allow(),
            Err(why) => {
                self.refuse(session, &device, ("publish", &publish.topic), why);
                PublishAclResult::rejected(false, None)
            }
        }
    }

    fn subscribe(&self, session: &Session, subscribe: &Subscribe) -> SubscribeAclResult {
        let refused = || SubscribeAclResult::new_failure(SubscribeAckReason::NotAuthorized);
        let Some(device) = self.active_device(session) else {
            return refused();
        };
        if may_subscribe(&device, &subscribe.topic_filter) {
            return SubscribeAclResult::new_success(subscribe.opts.qos(), None);
        }
        let asked = ("subscribe", &*subscribe.topic_filter);
        self.refuse(session, &device, asked, "not its own topic");
        refused()
    }

    fn active_device(&self, session: &Session) -> Option<DeviceId> {
        let device = DeviceId::new(&*session.id.client_id).ok()?;
        (session.id.lid == DEVICES && self.active.contains(&device)).then_some(device)
    }

    fn refuse(&self, session: &Session, device: &DeviceId, (action, topic): (&str, &str), why: &str) {
        self.refusals.tell(
            "acl.refused",
            format!("device:{device}"),
            [
                ("action", action.to_owned()),
                ("topic", topic.to_owned()),
                ("peer", peer(session.id.remote_addr)),
                ("reason", why.to_owned()),
            ],
        );
    }

    fn presence(&self, session: &Session, came: bool) {
        if session.id.lid != DEVICES {
            return;
        }
        let Ok(device) = DeviceId::new(&*session.id.client_id) else {
            return;
        };
        let name = session.id.to_string();
        if came {
            self.presence.came(&device, name, clock::now_ms());
        } else {
            self.presence.gone(&device, &name, clock::now_ms());
        }
    }
}

#[async_trait]
impl Handler for Gate {
    #[expect(
        elided_lifetimes_in_paths,
        reason = "async_trait takes `<'_>` for another signature than the trait's"
    )]
    async fn hook(&self, parameter: &Parameter, so_far: Option<HookResult>) -> ReturnType {
        match parameter {
            Parameter::ClientAuthenticate(info) => (false, Some(HookResult::AuthResult(self.authenticate(info).await))),
            Parameter::MessagePublishCheckAcl(session, publish) => (
                false,
                Some(HookResult::PublishAclResult(self.publish(session, publish))),
            ),
            Parameter::ClientSubscribeCheckAcl(session, subscribe) => (
                false,
                Some(HookResult::SubscribeAclResult(self.subscribe(session, subscribe))),
            ),
            Parameter::ClientConnected(session) => {
                self.presence(session, true);
                (true, so_far)
            }
            Parameter::ClientDisconnected(session, _) => {
                self.presence(session, false);
                (true, so_far)
            }
            _ => (true, so_far),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Connection<'static> = Connection {
        listener: DEVICES,
        client_id: "a",
        common_name: Some("a"),
        password: None,
        will: None,
    };

    fn secret() -> Digest {
        Digest::of(b"secret")
    }

    #[test]
    fn a_device_is_its_certificate() {
        assert_eq!(identify(&A, secret()), Ok(Peer::Device(DeviceId::new("a").unwrap())));
        let refused = [
            Connection { client_id: "b", ..A },
            Connection { common_name: None, ..A },
            Connection {
                client_id: SERVER_CLIENT,
                ..A
            },
            Connection {
                client_id: SERVER_CLIENT,
                common_name: Some(SERVER_CLIENT),
                password: Some(b"secret"),
                ..A
            },
            Connection {
                client_id: "A b",
                common_name: Some("A b"),
                ..A
            },
            Connection { listener: 7, ..A },
        ];
        for connection in refused {
            assert!(identify(&connection, secret()).is_err(), "{connection:?}");
        }
    }

    #[test]
    fn loopback_is_the_servers_own() {
        let server = Connection {
            listener: LOOPBACK,
            client_id: SERVER_CLIENT,
            common_name: None,
            password: Some(b"secret"),
            will: None,
        };
        assert_eq!(identify(&server, secret()), Ok(Peer::Server));
        for refused in [
            Connection {
                password: None,
                ..server
            },
            Connection {
                password: Some(b"other"),
                ..server
            },
            Connection {
                client_id: "a",
                ..server
            },
            Connection {
                listener: LOOPBACK,
                ..A
            },
        ] {
            assert!(identify(&refused, secret()).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn wills_are_publishes_too() {
        let will = |topic, retain| Connection {
            will: Some((topic, retain)),
            ..A
        };
        assert!(identify(&will("flotilla/v1/d/a/up/hello", false), secret()).is_ok());
        assert!(identify(&will("flotilla/v1/d/a/up/hello", true), secret()).is_err());
        assert!(identify(&will("flotilla/v1/d/b/up/hello", false), secret()).is_err());
        assert!(identify(&will("flotilla/v1/d/b/down/desired", false), secret()).is_err());
    }

    #[test]
    fn publishes_are_own_unretained_and_short() {
        let a = DeviceId::new("a").unwrap();
        let own = "flotilla/v1/d/a/up/bundle";
        assert_eq!(check_publish(&a, own, false, MAX_MESSAGE_BYTES), Ok(()));
        assert!(check_publish(&a, own, true, 1).is_err());
        assert!(check_publish(&a, own, false, MAX_MESSAGE_BYTES + 1).is_err());
        assert!(check_publish(&a, "flotilla/v1/d/b/up/bundle", false, 1).is_err());
        assert!(check_publish(&a, "flotilla/v1/d/a/down/desired", false, 1).is_err());
        assert!(check_publish(&a, "$delayed/5/flotilla/v1/d/b/up/bundle", false, 1).is_err());
    }
}
