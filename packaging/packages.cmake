# The Debian packages: one for each process, qwenctl, and "qwenserve" with the demo model, which wants
# the others. `cpack -G DEB` in the build folder writes them to packages/.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME qwenserve)
set(CPACK_PACKAGE_VENDOR qwenserve)
set(CPACK_PACKAGE_DIRECTORY "${PROJECT_BINARY_DIR}/packages")
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_SET_DESTDIR ON)  # of /etc
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_ALL ${components})
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)

set(version "${PROJECT_VERSION}")
set(services gateway tokenizer generator)
set(name_ctl qwenctl)
set(name_demo qwenserve)
set(summary_gateway "gRPC and OpenAI API in front of Qwen models")
set(text_gateway "The gateway takes requests, has their text turned into token ids by
tokenizers, gives each to the best of the generators, and streams the answers.")
set(summary_tokenizer "text to token ids of Qwen models and back")
set(text_tokenizer "A worker of qwenserve's gateway: it renders chat templates and tokenizes for
one model.")
set(summary_generator "runs one replica of a Qwen model")
set(text_generator "A worker of qwenserve's gateway: it batches sequences and runs the model, on
the CPU and, where it was built with CUDA, on GPUs, on several of either in
parallel.")
set(summary_ctl "command line of the qwenserve language model server")
set(text_ctl "Chats, completes, tokenizes, looks into a running gateway, puts load on it,
checks machines and models, quantizes, and serves a model by starting all
processes on this machine.")
set(summary_demo "streaming gRPC server for Qwen language models")
set(text_demo "Serves the Qwen family of language models to other programs: text in,
streamed text out. This package has a tiny demo model and brings the gateway,
the tokenizer, the generator and qwenctl.")

foreach(component ${components})
  string(TOUPPER ${component} upper)
  if(component IN_LIST services)
    set(name_${component} qwenserve-${component})
    set(control "${CMAKE_CURRENT_BINARY_DIR}/${component}")
    set(UNIT qwenserve-${component}.service)
    set(permissions OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
    foreach(script postinst prerm postrm)
      configure_file(scripts/${script}.in ${component}/${script} @ONLY FILE_PERMISSIONS ${permissions})
    endforeach()
    file(WRITE "${control}/conffiles" "/etc/qwenserve/${component}.json\n")
    set(CPACK_DEBIAN_${upper}_PACKAGE_CONTROL_EXTRA "${control}/postinst;${control}/prerm;${control}/postrm;${control}/conffiles")
    set(CPACK_DEBIAN_${upper}_PACKAGE_SUGGESTS qwenserve)
  endif()
  if(component STREQUAL "demo")
    set(CPACK_DEBIAN_DEMO_PACKAGE_ARCHITECTURE all)
    set(CPACK_DEBIAN_DEMO_PACKAGE_DEPENDS "qwenserve-gateway (>= ${version}), qwenserve-tokenizer (>= ${version}), qwenserve-generator (>= ${version}), qwenctl (>= ${version})")
  else()
    set(CPACK_DEBIAN_${upper}_PACKAGE_SHLIBDEPS ON)
  endif()
  set(CPACK_DEBIAN_${upper}_PACKAGE_NAME ${name_${component}})
  set(CPACK_COMPONENT_${upper}_DESCRIPTION "${summary_${component}}\n${text_${component}}")
  foreach(file copyright "${CMAKE_CURRENT_BINARY_DIR}/changelog.gz")
    install(FILES ${file} DESTINATION share/doc/${name_${component}} COMPONENT ${component} EXCLUDE_FROM_ALL)
  endforeach()
endforeach()

include(CPack)
