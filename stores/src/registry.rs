//! The registry of modes: what can be said of a store by its mode alone is made here, from one line a store.

/// Makes [`Mode`](crate::Mode), [`Place`](crate::Place) and [`StoreArgs`](crate::StoreArgs).
macro_rules! registry {
    ($(#[doc = $about:literal] $(#[$if:meta])? $mode:ident => $module:ident::{$store:ident, $place:ident, $args:ident},)+) => {
        /// A store that can be chosen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
        pub enum Mode {
            $(#[doc = $about] $mode,)+
        }

        impl Mode {
            /// Its name, as `leaderElection.mode` has it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$mode => stringify!($module),)+
                }
            }

            /// In words, for people.
            pub fn about(self) -> &'static str {
                match self {
                    $(Self::$mode => $about.trim_ascii(),)+
                }
            }

            /// Starts a store for one run, with servers of our own if it needs any. Dropping it ends them, and removes
            /// everything in it.
            ///
            /// # Errors
            /// When a server can't be started; the message says what to do.
            pub async fn start(self) -> anyhow::Result<std::sync::Arc<dyn TestStore>> {
                Ok(match self {
                    $($(#[$if])? Self::$mode => std::sync::Arc::new($module::$store::start().await?),)+
                    #[allow(unreachable_patterns, reason = "some modes may be left out")]
                    mode => return Err(mode.left_out()),
                })
            }

            /// This mode is not in this program.
            #[allow(dead_code, reason = "no mode may be left out")]
            fn left_out(self) -> anyhow::Error {
                let mode = self.as_str();
                anyhow::anyhow!(
                    "mode {mode} is not built in: build it with `--features {mode}`, or everything by \
                     `cargo build -p leasehold -p lease-lab`"
                )
            }

            /// The data of every store in the table of what differs between stores.
            pub fn descriptions() -> Vec<&'static str> {
                [$($(#[$if])? $module::DESCRIPTIONS),+].concat()
            }
        }

        /// The address of one store's leases and fenced resources: plain data, to be given to another process. It may
        /// hold passwords, so it belongs into no argument and no log.
        #[derive(Clone, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Place {
            $(#[doc = $about] $(#[$if])? $mode($module::$place),)+
        }

        impl Place {
            /// The store's mode.
            pub fn mode(&self) -> Mode {
                match self {
                    $($(#[$if])? Self::$mode(_) => Mode::$mode,)+
                }
            }

            fn reach(&self) -> &dyn store::Reach {
                match self {
                    $($(#[$if])? Self::$mode(place) => place,)+
                }
            }
        }

        /// Names a store that somebody else runs.
        #[derive(Clone, Debug, clap::Args)]
        pub struct StoreArgs {
            $($(#[$if])? #[command(flatten)] $module: $module::$args,)+
        }

        impl StoreArgs {
            /// Whether a server of this mode is named.
            pub fn names_a_server(&self, mode: Mode) -> bool {
                match mode {
                    $($(#[$if])? Mode::$mode => self.$module.names_a_server(),)+
                    #[allow(unreachable_patterns, reason = "some modes may be left out")]
                    _ => false,
                }
            }

            /// Opens the store that is named, or starts one of our own if none is.
            ///
            /// # Errors
            /// When the named store can't be used, or ours can't be started; the message says what to do.
            pub async fn open(self, mode: Mode) -> anyhow::Result<std::sync::Arc<dyn TestStore>> {
                Ok(match mode {
                    $($(#[$if])? Mode::$mode => std::sync::Arc::new($module::$store::open(self.$module).await?),)+
                    #[allow(unreachable_patterns, reason = "some modes may be left out")]
                    mode => return Err(mode.left_out()),
                })
            }
        }
    };
}
