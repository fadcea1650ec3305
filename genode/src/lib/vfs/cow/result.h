/*
 * \brief  Result of an operation at a layer
 * \author the capsa authors
 * \date   2026-11-29
 */

/*
 * Copyright (C) 2026 the capsa authors
 *
 * This file is part of capsa. It is combined with the Genode OS framework
 * and distributed under the terms of the GNU Affero General Public License
 * version 3.
 */

#ifndef _COW__RESULT_H_
#define _COW__RESULT_H_

/* local includes */
#include "layer.h"

namespace Vfs_cow {

	enum class Result { OK, NO_SPACE, NO_PERM, EXISTS, NAME_TOO_LONG,
	                    OUT_OF_RAM, OUT_OF_CAPS, IO_ERROR };

	static inline Result result(Directory_service::Open_result r)
	{
		switch (r) {
		case Directory_service::OPEN_OK:                return Result::OK;
		case Directory_service::OPEN_ERR_EXISTS:        return Result::EXISTS;
		case Directory_service::OPEN_ERR_NAME_TOO_LONG: return Result::NAME_TOO_LONG;
		case Directory_service::OPEN_ERR_NO_SPACE:      return Result::NO_SPACE;
		case Directory_service::OPEN_ERR_OUT_OF_RAM:    return Result::OUT_OF_RAM;
		case Directory_service::OPEN_ERR_OUT_OF_CAPS:   return Result::OUT_OF_CAPS;
		case Directory_service::OPEN_ERR_UNACCESSIBLE:
		case Directory_service::OPEN_ERR_NO_PERM:       break;
		}
		return Result::NO_PERM;
	}

	static inline Result result(Directory_service::Opendir_result r)
	{
		switch (r) {
		case Directory_service::OPENDIR_OK:                      return Result::OK;
		case Directory_service::OPENDIR_ERR_NAME_TOO_LONG:       return Result::NAME_TOO_LONG;
		case Directory_service::OPENDIR_ERR_NODE_ALREADY_EXISTS: return Result::EXISTS;
		case Directory_service::OPENDIR_ERR_NO_SPACE:            return Result::NO_SPACE;
		case Directory_service::OPENDIR_ERR_OUT_OF_RAM:          return Result::OUT_OF_RAM;
		case Directory_service::OPENDIR_ERR_OUT_OF_CAPS:         return Result::OUT_OF_CAPS;
		case Directory_service::OPENDIR_ERR_LOOKUP_FAILED:
		case Directory_service::OPENDIR_ERR_PERMISSION_DENIED:   break;
		}
		return Result::NO_PERM;
	}

	static inline Result result(Directory_service::Openlink_result r)
	{
		switch (r) {
		case Directory_service::OPENLINK_OK:                      return Result::OK;
		case Directory_service::OPENLINK_ERR_NAME_TOO_LONG:       return Result::NAME_TOO_LONG;
		case Directory_service::OPENLINK_ERR_NODE_ALREADY_EXISTS: return Result::EXISTS;
		case Directory_service::OPENLINK_ERR_NO_SPACE:            return Result::NO_SPACE;
		case Directory_service::OPENLINK_ERR_OUT_OF_RAM:          return Result::OUT_OF_RAM;
		case Directory_service::OPENLINK_ERR_OUT_OF_CAPS:         return Result::OUT_OF_CAPS;
		case Directory_service::OPENLINK_ERR_LOOKUP_FAILED:
		case Directory_service::OPENLINK_ERR_PERMISSION_DENIED:   break;
		}
		return Result::NO_PERM;
	}

	static inline Directory_service::Open_result open_result(Result r)
	{
		switch (r) {
		case Result::OK:            return Directory_service::OPEN_OK;
		case Result::NO_SPACE:      return Directory_service::OPEN_ERR_NO_SPACE;
		case Result::EXISTS:        return Directory_service::OPEN_ERR_EXISTS;
		case Result::NAME_TOO_LONG: return Directory_service::OPEN_ERR_NAME_TOO_LONG;
		case Result::OUT_OF_RAM:    return Directory_service::OPEN_ERR_OUT_OF_RAM;
		case Result::OUT_OF_CAPS:   return Directory_service::OPEN_ERR_OUT_OF_CAPS;
		case Result::NO_PERM:
		case Result::IO_ERROR:      break;
		}
		return Directory_service::OPEN_ERR_NO_PERM;
	}

	static inline Directory_service::Opendir_result opendir_result(Result r)
	{
		switch (r) {
		case Result::OK:            return Directory_service::OPENDIR_OK;
		case Result::NO_SPACE:      return Directory_service::OPENDIR_ERR_NO_SPACE;
		case Result::EXISTS:        return Directory_service::OPENDIR_ERR_NODE_ALREADY_EXISTS;
		case Result::NAME_TOO_LONG: return Directory_service::OPENDIR_ERR_NAME_TOO_LONG;
		case Result::OUT_OF_RAM:    return Directory_service::OPENDIR_ERR_OUT_OF_RAM;
		case Result::OUT_OF_CAPS:   return Directory_service::OPENDIR_ERR_OUT_OF_CAPS;
		case Result::NO_PERM:
		case Result::IO_ERROR:      break;
		}
		return Directory_service::OPENDIR_ERR_PERMISSION_DENIED;
	}

	static inline Directory_service::Openlink_result openlink_result(Result r)
	{
		switch (r) {
		case Result::OK:            return Directory_service::OPENLINK_OK;
		case Result::NO_SPACE:      return Directory_service::OPENLINK_ERR_NO_SPACE;
		case Result::EXISTS:        return Directory_service::OPENLINK_ERR_NODE_ALREADY_EXISTS;
		case Result::NAME_TOO_LONG: return Directory_service::OPENLINK_ERR_NAME_TOO_LONG;
		case Result::OUT_OF_RAM:    return Directory_service::OPENLINK_ERR_OUT_OF_RAM;
		case Result::OUT_OF_CAPS:   return Directory_service::OPENLINK_ERR_OUT_OF_CAPS;
		case Result::NO_PERM:
		case Result::IO_ERROR:      break;
		}
		return Directory_service::OPENLINK_ERR_PERMISSION_DENIED;
	}
}

#endif /* _COW__RESULT_H_ */
