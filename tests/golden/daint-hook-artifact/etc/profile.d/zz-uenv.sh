# A login shell reads /etc/profile, which sets PATH anew. This gives back what the image has: folders that
# are missing from PATH, and variables that are not set. Whatever is set already stays.
case ":${PATH-}:" in *:'/usr/local/sbin':*) ;; *) PATH=${PATH:+"$PATH:"}'/usr/local/sbin' ;; esac
case ":${PATH-}:" in *:'/usr/local/bin':*) ;; *) PATH=${PATH:+"$PATH:"}'/usr/local/bin' ;; esac
case ":${PATH-}:" in *:'/usr/sbin':*) ;; *) PATH=${PATH:+"$PATH:"}'/usr/sbin' ;; esac
case ":${PATH-}:" in *:'/usr/bin':*) ;; *) PATH=${PATH:+"$PATH:"}'/usr/bin' ;; esac
case ":${PATH-}:" in *:'/sbin':*) ;; *) PATH=${PATH:+"$PATH:"}'/sbin' ;; esac
case ":${PATH-}:" in *:'/bin':*) ;; *) PATH=${PATH:+"$PATH:"}'/bin' ;; esac
export PATH
[ -n "${LANG+set}" ] || export LANG='C.UTF-8'
[ -n "${CUDA_CACHE_DISABLE+set}" ] || export CUDA_CACHE_DISABLE='1'
[ -n "${MPICH_GPU_SUPPORT_ENABLED+set}" ] || export MPICH_GPU_SUPPORT_ENABLED='0'
[ -n "${NCCL_PROTO+set}" ] || export NCCL_PROTO='^LL128'
[ -n "${NVIDIA_DRIVER_CAPABILITIES+set}" ] || export NVIDIA_DRIVER_CAPABILITIES='compute,utility'
[ -n "${NVIDIA_VISIBLE_DEVICES+set}" ] || export NVIDIA_VISIBLE_DEVICES='all'
[ -n "${PMIX_MCA_psec+set}" ] || export PMIX_MCA_psec='^munge'
[ -n "${MODEL+set}" ] || export MODEL='it'"'"'s a "test"; $HOME'
